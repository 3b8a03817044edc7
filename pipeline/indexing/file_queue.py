"""What the driver and the first operators of a run hand each other: listed files one way, plans the other.

A dataset's input is fixed when it starts, but files are still being listed then. So its input is a row of positions,
and its first operator asks the queue for the files at each. An answer is kept: a task that Ray runs again gets the
same files. Nothing here waits; who asks too early asks again.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.exceptions import ActorUnavailableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from malmm.pipeline.schema.rows import FILES

__all__ = ["POSITIONS", "FileQueue", "FileQueueHandle", "RemoteFileQueue", "positions_for"]

#: Positions of a dataset that begins before all files are listed.
POSITIONS = 128
_FIRST_FILES, _FIRST_WAIT_S, _GROWTH = 16, 0.2, 1.1
_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)


def positions_for(files: int) -> int:
    """How many positions it takes for so many files, all of which are known."""
    sizes = itertools.accumulate(_most(position) for position in itertools.count())
    return 1 + next(number for number, total in enumerate(sizes) if total >= files)


def _most(position: int) -> int:
    return round(_FIRST_FILES * _GROWTH**position)


class FileQueueHandle(Protocol):
    """An queue as the driver and the operators use it, wherever it lies."""

    def offer(self, files: pa.Table) -> None:
        """Hand over files that were listed, ``FILES``."""

    def close(self) -> None:
        """Say that no file follows."""

    def files_at(self, position: int) -> pa.Table:
        """The files at a position, ``FILES``, as soon as they are there; none where all have been given out."""

    def note(self, plans: pa.Table, wait: bool) -> object:
        """Hand over the plans of videos, ``PLANS``. With ``wait``, return once their segments may be written."""

    def take(self, after: int) -> list[pa.Table]:
        """Return the tables of plans that follow the first ``after`` ones, which need not be kept any longer."""

    def admit(self) -> None:
        """Say that the archive is there to be written."""

    def end(self) -> None:
        """Have whoever still waits for files give up."""


class FileQueue:
    """``positions`` is how many positions are asked for, one after the other; the last one has all that is left.

    Files are given out in portions that grow with the position, so that a few positions are enough for millions. Where
    the listing is slow, a portion is smaller, and has waited for at most a tenth of the time that it has gone on.
    """

    def __init__(self, positions: int, now: Callable[[], float] = time.monotonic) -> None:
        self._positions = positions
        self._now = now
        self._since = now()
        self._lock = threading.Lock()
        self._given: list[pa.Table] = []
        self._left: list[pa.Table] = []
        self._closed = False
        self._plans: list[pa.Table] = []
        self._forgotten = 0
        self._admitted = False

    def offer(self, files: pa.Table) -> None:
        """Take files that were listed."""
        with self._lock:
            self._left.append(files)

    def close(self) -> None:
        """No file follows."""
        with self._lock:
            self._closed = True

    def files_at(self, position: int) -> pa.Table | None:
        """The files at a position; None if it is too early to say."""
        with self._lock:
            if position < len(self._given):
                return self._given[position]
            if position > len(self._given):
                return None
            count = sum(files.num_rows for files in self._left)
            last = position >= self._positions - 1
            if not self._closed and (last or not self._has_waited(position, count)):
                return None
            files = pa.concat_tables(self._left) if self._left else FILES.empty_table()
            portion = files if last else files.slice(0, _most(position))
            rest = files.slice(portion.num_rows)
            self._left = [rest] if rest.num_rows else []
            self._given.append(portion)
            self._since = self._now()
            return portion

    def _has_waited(self, position: int, count: int) -> bool:
        """Whether a portion is full, or has waited for more for long enough."""
        enough_s = _FIRST_WAIT_S * _GROWTH**position
        return count >= _most(position) or (count > 0 and self._now() - self._since >= enough_s)

    def note(self, plans: pa.Table, wait: bool = False) -> bool:
        """Store plans. Return whether segments may be written; it is the caller who waits."""
        with self._lock:
            self._plans.append(plans)
            return self._admitted

    def take(self, after: int) -> list[pa.Table]:
        """Return the plans that follow the first ``after`` tables, and forget those."""
        with self._lock:
            del self._plans[: after - self._forgotten]
            self._forgotten = after
            return list(self._plans)

    def admit(self) -> None:
        """From now on segments may be written."""
        with self._lock:
            self._admitted = True

    def is_admitted(self) -> bool:
        """Whether segments may be written."""
        with self._lock:
            return self._admitted

    def end(self) -> None:
        """Nobody waits here."""


class RemoteFileQueue:
    """An queue in an actor on the driver's machine; goes to workers by pickling.

    Raises Ray's ActorDiedError once the actor is gone: then the run cannot go on.
    """

    def __init__(self, positions: int) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
        self._actor: Any = ray.remote(**options)(FileQueue).remote(positions)

    def offer(self, files: pa.Table) -> None:
        """As ``FileQueueHandle``."""
        self._ask("offer", files)

    def close(self) -> None:
        """As ``FileQueueHandle``."""
        self._ask("close")

    def files_at(self, position: int) -> pa.Table:
        """As ``FileQueueHandle``."""
        files: pa.Table = self._until(lambda: self._ask("files_at", position))
        return files

    def note(self, plans: pa.Table, wait: bool) -> None:
        """As ``FileQueueHandle``."""
        if not self._ask("note", plans) and wait:
            self._until(lambda: self._ask("is_admitted") or None)

    def take(self, after: int) -> list[pa.Table]:
        """As ``FileQueueHandle``."""
        plans: list[pa.Table] = self._ask("take", after)
        return plans

    def admit(self) -> None:
        """As ``FileQueueHandle``."""
        self._ask("admit")

    def end(self) -> None:
        """As ``FileQueueHandle``."""
        ray.kill(self._actor)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the actor, and call again if it could not be reached for a moment: no call loses or changes anything
        when it comes twice.
        """
        for pause_s in _endless():
            try:
                return ray.get(getattr(self._actor, method).remote(*arguments))
            except ActorUnavailableError:
                time.sleep(pause_s)
        raise AssertionError("endless")

    @staticmethod
    def _until(answer: Callable[[], Any]) -> Any:
        """Ask until there is an answer."""
        for pause_s in _endless():
            if (found := answer()) is not None:
                return found
            time.sleep(pause_s)
        raise AssertionError("endless")


def _endless() -> itertools.chain[float]:
    return itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1]))
