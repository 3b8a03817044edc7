"""The queue between the driver and the first operators of a run: listed files go one way, plans come back.

A dataset's input is fixed when it starts, but files are still being listed then. So the input is a list of positions,
and the first operator asks the queue for the files at each position. Answers are kept, so that a task that Ray runs
again gets the same files. The queue never blocks: callers poll.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from malmm.pipeline.indexing.run_actor import RunActor, endless
from malmm.pipeline.schema.rows import FILES

__all__ = ["POSITIONS", "FileQueue", "FileQueueHandle", "RemoteFileQueue", "positions_for"]

#: Number of positions of a dataset that starts before all files are listed.
POSITIONS = 128
_FIRST_FILES, _FIRST_WAIT_S, _GROWTH = 16, 0.2, 1.1
_PAUSES_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_NAME = "file queue"


def positions_for(files: int) -> int:
    """Number of positions for this many files, if all files are known."""
    sizes = itertools.accumulate(_most(position) for position in itertools.count())
    return 1 + next(number for number, total in enumerate(sizes) if total >= files)


def _most(position: int) -> int:
    return round(_FIRST_FILES * _GROWTH**position)


class FileQueueHandle(Protocol):
    """A file queue as the driver and the operators use it, wherever it runs."""

    def offer(self, files: pa.Table) -> None:
        """Add listed files, a table of ``FILES``."""

    def close(self) -> None:
        """Declare the listing complete: no file follows."""

    def files_at(self, position: int) -> pa.Table:
        """Wait for the files at a position, a table of ``FILES``; empty if no files are left."""

    def note(self, plans: pa.Table, wait: bool) -> object:
        """Add plans of videos, a table of ``PLANS``. With ``wait``, return once their segments may be written."""

    def take(self, after: int) -> list[pa.Table]:
        """Return the tables of plans after the first ``after`` ones, and drop those."""

    def admit(self) -> None:
        """Declare that the archive exists and may be written."""

    def end(self) -> None:
        """Stop all who still wait for files."""


class FileQueue:
    """The queue itself. ``positions`` are asked for one after the other; the last one gets all files that are left.

    Portions grow with the position, so that few positions are enough for millions of files. If the listing is slow, a
    portion is cut short once it has waited for about a tenth of the time that all portions before it may have taken.
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
        self._ended = False

    def offer(self, files: pa.Table) -> None:
        """Add listed files."""
        with self._lock:
            self._left.append(files)

    def close(self) -> None:
        """Declare the listing complete."""
        with self._lock:
            self._closed = True

    def files_at(self, position: int) -> pa.Table | None:
        """The files at a position; None if they are not ready yet. Raises RuntimeError after ``end``."""
        with self._lock:
            self._check()
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
        """Whether a portion is full or has waited long enough for more files."""
        enough_s = _FIRST_WAIT_S * _GROWTH**position
        return count >= _most(position) or (count > 0 and self._now() - self._since >= enough_s)

    def note(self, plans: pa.Table, wait: bool = False) -> bool:
        """Store plans. Returns whether segments may be written; ``wait`` is up to the caller."""
        with self._lock:
            self._plans.append(plans)
            return self._admitted

    def take(self, after: int) -> list[pa.Table]:
        """Return the tables of plans after the first ``after`` ones, and drop those."""
        with self._lock:
            del self._plans[: after - self._forgotten]
            self._forgotten = after
            return list(self._plans)

    def admit(self) -> None:
        """Allow segments to be written."""
        with self._lock:
            self._admitted = True

    def is_admitted(self) -> bool:
        """Whether segments may be written. Raises RuntimeError after ``end``."""
        with self._lock:
            self._check()
            return self._admitted

    def end(self) -> None:
        """Drop all there is, and fail those who still ask."""
        with self._lock:
            self._ended = True
            self._given, self._left, self._plans = [], [], []

    def _check(self) -> None:
        if self._ended:
            raise RuntimeError("the run takes no more files")


class RemoteFileQueue:
    """A file queue in a run's actor. Can be pickled to workers.

    Raises RunLost once the actor is gone: then the run cannot go on.
    """

    def __init__(self, positions: int, actor: RunActor) -> None:
        self._actor = actor
        actor.make(_NAME, FileQueue, positions)

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
        self._actor.tell(_NAME, "end")

    def _ask(self, method: str, *arguments: Any) -> Any:
        return self._actor.ask(_NAME, method, *arguments)

    @staticmethod
    def _until(answer: Callable[[], Any]) -> Any:
        """Poll until the answer is not None."""
        for pause_s in endless(_PAUSES_S):
            if (found := answer()) is not None:
                return found
            time.sleep(pause_s)
        raise AssertionError("endless")
