"""The desk at which a run's tasks ask for a model host that has time for them.

A host takes a few batches at a time: one for each of its models, and one that is ready for the first. Tasks beyond that
wait, so that hosts which come later get their share. A batch of a host that died goes to another one alone: if that one
dies too, it is known what it died of. The desk never blocks: callers poll.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from malmm.pipeline.indexing.run_actor import RunActor, endless

__all__ = ["BATCHES_A_HOST", "HostDesk", "RemoteHostDesk"]

#: Batches that a host has at a time.
BATCHES_A_HOST = 3
_PAUSES_S = (0.005, 0.02, 0.05, 0.1, 0.2)
_NAME = "host desk"
# A task whose process died never returns its place; only the loss of a whole node is noticed. After so long its place
# is given away: at worst a host has a batch more, which waits there.
_FORGOTTEN_AFTER_S = 600.0
# A task that waits to have a host alone asks several times a second. One that does not ask any more has died.
_GONE_AFTER_S = 30.0


class HostDesk:
    """The desk itself. Hosts belong to groups; all of a group have the same models."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[str, Any]] = {}
        # Host to those whose batches it has, each with the time.
        self._held: dict[str, dict[str, float]] = {}
        # Host to the one that has it alone, or waits until its other batches are done, with when that one asked last.
        self._alone: dict[str, tuple[str, float]] = {}

    def add(self, key: str, group: str, host: Any) -> None:
        """Add a host that has loaded its models."""
        with self._lock:
            self._hosts[key] = (group, host)
            self._held.setdefault(key, {})

    def remove(self, key: str) -> None:
        """Remove a host that is gone."""
        with self._lock:
            self._hosts.pop(key, None)
            self._held.pop(key, None)
            self._alone.pop(key, None)

    def keep_nodes(self, nodes: frozenset[str]) -> None:
        """Forget tasks on other nodes than these: they died with their node, and never return their places."""
        with self._lock:
            for held in self._held.values():
                for holder in [holder for holder in held if _node_of(holder) not in nodes]:
                    del held[holder]
            for key, (holder, _) in list(self._alone.items()):
                if _node_of(holder) not in nodes:
                    del self._alone[key]

    def take(self, group: str, holder: str, *, alone: bool = False) -> tuple[str, Any] | None:
        """The host of a group with the fewest batches, and its key; None while all have enough.

        ``holder`` is the name of the one that asks: its node, a slash, and what tells it from others there. With
        ``alone``, a host without any batch. One that has some gets no more until it is without.
        """
        now_s = time.monotonic()
        with self._lock:
            for held in self._held.values():
                held.pop(holder, None)
                for other in [
                    other for other, since_s in held.items() if now_s - since_s >= _FORGOTTEN_AFTER_S
                ]:
                    del held[other]
            for key, (other, asked_s) in list(self._alone.items()):
                if other not in self._held[key] and now_s - asked_s >= _GONE_AFTER_S:
                    del self._alone[key]
            counts = {key: len(held) for key, held in self._held.items() if self._hosts[key][0] == group}
            chosen = self._reserved(counts, holder, now_s) if alone else self._free(counts)
            if chosen is None:
                return None
            self._held[chosen][holder] = now_s
            return chosen, self._hosts[chosen][1]

    def give_back(self, key: str, holder: str) -> None:
        """Say that a host is done with a batch."""
        with self._lock:
            self._held.get(key, {}).pop(holder, None)
            if self._alone.get(key, ("", 0.0))[0] == holder:
                del self._alone[key]

    def _free(self, counts: Mapping[str, int]) -> str | None:
        """The host with the fewest batches of those that may have one more."""
        free = [
            (count, key) for key, count in counts.items() if count < BATCHES_A_HOST and key not in self._alone
        ]
        return min(free)[1] if free else None

    def _reserved(self, counts: Mapping[str, int], holder: str, now_s: float) -> str | None:
        """A host that is reserved for the holder, once it has no batch."""
        own = next((key for key in counts if self._alone.get(key, ("", 0.0))[0] == holder), None)
        if own is None:
            others = [(count, key) for key, count in counts.items() if key not in self._alone]
            if not others:
                return None
            _, own = min(others)
        self._alone[own] = (holder, now_s)
        return own if counts[own] == 0 else None


class RemoteHostDesk:
    """A desk in a run's actor. Can be pickled to workers.

    Raises RunLost once the actor is gone: then the run cannot go on.
    """

    def __init__(self, actor: RunActor) -> None:
        self._actor = actor
        actor.make(_NAME, HostDesk)

    def add(self, key: str, group: str, host: Any) -> None:
        """As ``HostDesk``."""
        self._ask("add", key, group, host)

    def remove(self, key: str) -> None:
        """As ``HostDesk``."""
        self._ask("remove", key)

    def keep_nodes(self, nodes: frozenset[str]) -> None:
        """As ``HostDesk``."""
        self._ask("keep_nodes", nodes)

    @contextmanager
    def taken(self, group: str, *, alone: bool = False) -> Iterator[tuple[str, Any]]:
        """Wait for a host of this group, and have it for a batch, or ``alone``: its key and itself."""
        holder = f"{ray.get_runtime_context().get_node_id()}/{secrets.token_hex(8)}"
        for pause_s in endless(_PAUSES_S):
            if (found := self._ask("take", group, holder, alone=alone)) is not None:
                break
            time.sleep(pause_s)
        key, host = found
        try:
            yield key, host
        finally:
            self._ask("give_back", key, holder)

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        return self._actor.ask(_NAME, method, *arguments, **options)


def _node_of(holder: str) -> str:
    return holder.partition("/")[0]
