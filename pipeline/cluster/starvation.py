"""Notice work that waits for room on a cluster: nothing finishes, and tasks of its sizes wait for a node.

Ray queues a task that no node has room for without a word, also in the middle of a run: when another job takes the
CPUs between two tasks, or a node goes away; and so it does with what is started beside a run. A long segment is silent
as well, so silence alone proves nothing. The proof is the cluster's own list of requests that no node can meet at
present, which its autoscalers read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from malmm.pipeline.cluster.placement import (
    Labels,
    Want,
    alive_nodes,
    asked_and_there,
    on_nodes_with,
    wants_of,
)
from malmm.pipeline.cluster.resources import Node, Resources

__all__ = ["Requests", "RequestsOfRay", "RoomWatch", "Shape", "room_told", "wait_for_worker"]

#: Seconds without anything finished after which the cluster is asked.
SAY_AFTER_S = 10.0
_ASK_EVERY_S = 3.0
_LOOK_EVERY_S = 0.5

Shape = tuple[float, float]
"""CPUs and GPUs that a task asks for."""


class Requests(Protocol):
    """The requests that a cluster cannot meet at present. Nothing here waits."""

    def ask(self) -> None:
        """Ask the cluster for them."""

    def answer(self) -> frozenset[Shape] | None:
        """The answer to the last question; None while there is none."""

    def room(self) -> tuple[list[Node], dict[str, float]]:
        """The cluster's nodes, and how much of each resource is free."""


class RequestsOfRay:
    """Requests of the Ray cluster that this process is connected to. Empty without a connection."""

    def __init__(self) -> None:
        self._asked: Any = None

    def ask(self) -> None:
        """See ``Requests``."""
        self._asked = ray.remote(num_cpus=0)(_open_requests).remote() if ray.is_initialized() else None

    def answer(self) -> frozenset[Shape] | None:
        """See ``Requests``."""
        if self._asked is None:
            return frozenset()
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return None
        try:
            return frozenset(ray.get(ready[0]))
        except RayError:
            # A cluster that cannot tell is not known to lack room.
            return frozenset()

    def room(self) -> tuple[list[Node], dict[str, float]]:
        """See ``Requests``."""
        return alive_nodes(), ray.available_resources()


class RoomWatch:
    """Tells what a run waits for. The run calls ``note`` regularly; it never waits for the cluster's answer.

    ``light`` are stages beside those that ``resources`` has, if any, and ``now_s`` is a clock.
    """

    def __init__(
        self,
        resources: Resources | None,
        light: Iterable[Want] = (),
        *,
        requests: Requests | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wants = [*(wants_of(resources) if resources is not None else ()), *light]
        self._requests = requests or RequestsOfRay()
        self._now_s = now_s
        self._done = -1
        self._since_s = self._asked_s = now_s()
        self._is_asking = False
        self._open: frozenset[Shape] = frozenset()
        self._note = ""

    def note(self, done: int) -> str:
        """One sentence about what the run waits for; empty while it makes progress.

        ``done`` is how much the run has finished, in whatever unit: a change of it is a sign of life.
        """
        now_s = self._now_s()
        if done != self._done:
            self._done, self._since_s = done, now_s
            self._is_asking, self._open, self._note = False, frozenset(), ""
        if now_s - self._since_s < SAY_AFTER_S:
            return ""
        if self._is_asking:
            self._take_answer()
        elif now_s - self._asked_s >= _ASK_EVERY_S:
            self._requests.ask()
            self._is_asking, self._asked_s = True, now_s
        return self._note

    def _take_answer(self) -> None:
        now_open = self._requests.answer()
        if now_open is None:
            return
        # Between two tasks a request is open for a moment: it has to be there twice.
        lasting, self._open, self._is_asking = now_open & self._open, now_open, False
        held_up = [want for want in self._wants if want[1:] in lasting]
        self._note = ""
        if held_up:
            has = asked_and_there(held_up, *self._requests.room())
            self._note = (
                f"nothing gets on, and no node has room for {has}; it goes on when another job ends "
                "(`ray list actors` shows them), or add a node"
            )


@contextmanager
def room_told(
    wants: Iterable[Want], tell: Callable[[str], None], requests: Requests | None = None
) -> Iterator[None]:
    """Report through ``tell`` what these workers wait for, during a block that returns once they have begun.

    ``tell`` is called in a thread, each time with another sentence.
    """
    watch = RoomWatch(None, wants, requests=requests)
    ended = threading.Event()

    def look() -> None:
        told = ""
        while not ended.wait(_LOOK_EVERY_S):
            try:
                note = watch.note(0)
            except RayError:
                # The cluster is gone, as the block itself will find.
                return
            if note and note != told:
                tell(note)
                told = note

    thread = threading.Thread(target=look, name="malmm-room", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait_for_worker(want: Want, tell: Callable[[str], None], labels: Labels = ()) -> None:
    """Wait until the cluster has had room for one such worker, and report through ``tell`` what it waits for.

    Only nodes with these ``labels`` count.
    Raises RayError if no worker can be started.
    """
    _, cpus, gpus = want
    with room_told([want], tell):
        ray.get(ray.remote(num_cpus=cpus, num_gpus=gpus, **on_nodes_with(labels))(_nothing).remote())


def _nothing() -> None:
    """Runs where a worker would run. That it runs at all is the answer."""


def _open_requests() -> list[Shape]:
    """The sizes of all tasks and actors that the cluster has no room for at present. Runs on the cluster."""
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return [
        (bundle.bundle.get("CPU", 0.0), bundle.bundle.get("GPU", 0.0))
        for demand in status.resource_demands.ray_task_actor_demand
        for bundle in demand.bundles_by_count
    ]
