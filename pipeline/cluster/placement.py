"""Wait until a cluster has room for a run's workers, and report meanwhile what the run waits for.

Ray queues a task that no node has room for, without a time limit and without a message. So before a run begins, it
starts one small task for each kind of worker, which waits in Ray's own queue as the worker itself would.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import RayError

from malmm.pipeline.cluster.resources import Node, Resources
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = [
    "Want",
    "alive_nodes",
    "asked_and_there",
    "room_note",
    "wait_for_nodes",
    "wait_for_room",
    "wants_of",
]

Want = tuple[str, float, float]
"""A stage, and the CPUs and GPUs that a worker of it asks for."""

#: Seconds without an answer after which a run says what it waits for.
SAY_AFTER_S = 5.0
_LOOK_EVERY_S = 0.5
_STAGE = "waiting for workers"


def alive_nodes() -> list[Node]:
    """What Ray may use of each machine of the cluster that is there now."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in found]


def wait_for_nodes(tell: OnProgress) -> list[Node]:
    """The cluster's machines, once one of them has a CPU for tasks; a head alone often has none."""
    began = time.monotonic()
    while True:
        nodes = alive_nodes()
        if any(node.cpus > 0 for node in nodes):
            return nodes
        waited_s = time.monotonic() - began
        if waited_s >= SAY_AFTER_S:
            note = (
                f"waiting for a worker node: {_counted(len(nodes), 'node')} in the cluster, none with a CPU for tasks; "
                "`ray start --address=HEAD:PORT` on a machine adds one, as does a worker group of the cluster"
            )
            tell(Progress(_STAGE, note=note, elapsed_s=waited_s))
        time.sleep(_LOOK_EVERY_S)


def wait_for_room(resources: Resources, tell: OnProgress) -> None:
    """Wait until a worker of each stage has found room once. Raises WorkerError if Ray cannot start a worker."""
    began = time.monotonic()
    waiting = {_asked(cpus, gpus): (name, cpus, gpus) for name, cpus, gpus in wants_of(resources)}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_LOOK_EVERY_S)
            for reference in ready:
                ray.get(reference)
                del waiting[reference]
            waited_s = time.monotonic() - began
            if waiting and waited_s >= SAY_AFTER_S:
                note = room_note(waiting.values(), alive_nodes(), ray.available_resources())
                tell(Progress(_STAGE, note=note, elapsed_s=waited_s))
    except RayError as error:
        raise WorkerError(
            f"the cluster cannot start a worker: {' '.join(str(error).split())[-600:]}"
        ) from error
    finally:
        for reference in waiting:
            ray.cancel(reference)


def room_note(asked: Iterable[Want], nodes: list[Node], available: dict[str, float]) -> str:
    """What the run waits for, as one sentence: the workers ``asked`` for, and the cluster's resources."""
    wants = list(asked)
    has = asked_and_there(wants, nodes, available)
    too_large = [want for want in wants if not any(_fits(node, want) for node in nodes)]
    if too_large:
        name, cpus, _ = too_large[0]
        what = "cpus" if not any(node.cpus >= cpus for node in nodes) else "gpus"
        way_out = (
            f"no node is large enough for {name}: add one, or ask for less with --resource {name}_{what}=N"
        )
    else:
        way_out = (
            "other jobs hold the rest: it goes on when one ends (`ray list actors` shows them), or add a node"
        )
    return f"waiting for room for {has}; {way_out}"


def asked_and_there(asked: Iterable[Want], nodes: list[Node], available: dict[str, float]) -> str:
    """Workers ``asked`` for, and what the cluster has and has ``available``, as part of a sentence."""
    text = ", ".join(f"{name} ({_amount(cpus, gpus or None)})" for name, cpus, gpus in asked)
    total = Node(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
    there = f"{_counted(len(nodes), 'node')} with {_amount(total.cpus, total.gpus or None)}"
    free = _amount(available.get("CPU", 0.0), available.get("GPU", 0.0) if total.gpus else None)
    return f"{text}: {there}, of which {free} are free"


def _fits(node: Node, want: Want) -> bool:
    return node.cpus >= want[1] and node.gpus >= want[2]


def wants_of(resources: Resources) -> list[Want]:
    """What a worker of each stage asks for."""
    return [
        ("decode", resources.decode_cpus, 0.0),
        ("encode", resources.encode_cpus, resources.encode_gpus),
        ("generate", resources.generate_cpus, resources.generate_gpus),
    ]


def _asked(cpus: float, gpus: float) -> Any:
    return ray.remote(num_cpus=cpus, num_gpus=gpus)(_nothing).remote()


def _nothing() -> None:
    """Runs where a worker would run. That it runs at all is the answer."""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _amount(cpus: float, gpus: float | None) -> str:
    """``2 CPUs and 1 GPU``; without GPUs where ``gpus`` is None."""
    text = _counted_share(cpus, "CPU")
    return text if gpus is None else f"{text} and {_counted_share(gpus, 'GPU')}"


def _counted_share(share: float, what: str) -> str:
    return f"{share:g} {what}" if share == 1 else f"{share:g} {what}s"
