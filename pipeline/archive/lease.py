"""One writer at a time: the lease that a run holds on its archive.

A table of one row says who writes. It is taken and given back with conditional updates, which Lance makes
atomic on disks and in object stores alike. A holder counts its row up every few seconds; one that stops doing so has
died, and the next writer takes over. Nobody's clock is compared with anybody's: a writer that finds another there
watches whether the count moves, on its own clock. A holder that was itself asleep for too long finds out before
its next commit, since it commits nothing without a recent beat.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import lance
import pyarrow as pa

from malmm.pipeline.archive.location import create_dataset, lance_errors, open_dataset
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.processes import place as _place
from malmm.pipeline.archive.processes import started as _started
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError

__all__ = ["WRITER_TABLE", "Lease"]

BEAT_S = 5.0
"""How often a holder shows that it lives."""
PATIENCE_S = 30.0
"""How long a holder may stay silent before it is taken for dead."""

WRITER_TABLE = "writer"
_SCHEMA = pa.schema(
    [
        pa.field("holder", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("process", pa.string(), nullable=False),
        pa.field("shown", pa.string(), nullable=False),
        pa.field("beat", pa.int64(), nullable=False),
    ]
)
_NOBODY = 24 * "0"
_FREE = {"holder": _NOBODY, "place": "", "process": "", "shown": "", "beat": 0}
_BEATS_A_CLEANING, _KEPT_S = 60, 600.0
_POLL_S = 1.0
# This process's own: a lease that it could not give back, the store being away, must not shut itself out.
_HELD: set[str] = set()


@dataclass(frozen=True)
class _Row:
    holder: str
    place: str
    process: str
    shown: str
    beat: int

    @property
    def is_gone(self) -> bool:
        """Whether this machine can tell that the holder's process has ended."""
        if self.place != _place():
            return False
        number = int(self.process.split("/")[0])
        return _started(number) != self.process or (number == os.getpid() and self.holder not in _HELD)

    @property
    def is_here(self) -> bool:
        """Whether the holder lives on this machine, so that there is no need to watch it."""
        return self.place == _place() and not self.is_gone


class Lease:
    """Held from ``take`` to ``give_back``, which a ``with`` block does; or until its holder is taken for dead."""

    def __init__(self, archive_uri: str, holder: str) -> None:
        self.archive_uri = archive_uri
        self.holder = holder
        self._last_beat = _now()
        self._beats = 0
        self._lost = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="malmm-lease", daemon=True)

    @classmethod
    def take(cls, archive_uri: str, *, patience_s: float | None = None) -> Self:
        """Become the archive's writer. ``archive_uri`` is ``Archive.uri``.

        A holder on another machine is watched for up to ``patience_s`` seconds. Raises ArchiveBusy when one lives, and
        ArchiveError when the archive cannot be reached.
        """
        patience_s = PATIENCE_S if patience_s is None else patience_s
        holder = secrets.token_hex(12)
        began, seen = _now(), None
        while True:
            row = _read(archive_uri)
            if row.holder == _NOBODY or row.is_gone or (row == seen and _now() - began >= patience_s):
                if _change(archive_uri, row, _description(holder)):
                    lease = cls(archive_uri, holder)
                    _HELD.add(holder)
                    lease._thread.start()
                    return lease
                # Somebody was quicker, and lives.
                began, seen = _now(), None
                continue
            if row.is_here or (seen is not None and row != seen):
                raise ArchiveBusy(
                    f"{archive_uri} is being written by {row.shown}: wait for it to end, or stop it",
                    uri=archive_uri,
                )
            if seen is None:
                began, seen = _now(), row
            time.sleep(min(_POLL_S, patience_s / 4))

    def check(self) -> None:
        """Raise ArchiveBusy when the lease was lost. To be called before whatever is committed."""
        if not self._lost and _now() - self._last_beat > 2 * BEAT_S:
            self._beat()
        if self._lost or _now() - self._last_beat > PATIENCE_S:
            raise ArchiveBusy(
                f"{self.archive_uri} was taken over by another writer while this one was silent for more than "
                f"{PATIENCE_S:g} s: run again to go on with what is missing",
                uri=self.archive_uri,
            )

    def give_back(self) -> None:
        """Let the next writer in. What is not given back is free when its process is found dead, or silent."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        _HELD.discard(self.holder)
        if not self._lost:
            with lance_errors(self.archive_uri, "give back the lease of"):
                _dataset(self.archive_uri).update(_literals(_FREE), where=equals("holder", self.holder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What ended the run matters more than a store that is away; silence frees the lease as well.
        with suppress(ArchiveError):
            self.give_back()

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT_S) and not self._lost:
            try:
                self._beat()
            except ArchiveError:
                # The store is away for a while: `check` knows how long.
                continue

    def _beat(self) -> None:
        with self._lock:
            asked = _now()
            with lance_errors(self.archive_uri, "keep the lease of"):
                dataset = _dataset(self.archive_uri)
                done = dataset.update({"beat": "beat + 1"}, where=equals("holder", self.holder))
                self._beats += 1
                if self._beats % _BEATS_A_CLEANING == 0:
                    dataset.cleanup_old_versions(older_than=timedelta(seconds=_KEPT_S))
            if done["num_rows_updated"]:
                self._last_beat = asked
            else:
                self._lost = True


def _dataset(archive_uri: str) -> lance.LanceDataset:
    dataset = open_dataset(archive_uri, WRITER_TABLE)
    if dataset is None:
        try:
            create_dataset(archive_uri, WRITER_TABLE, pa.Table.from_pylist([_FREE], schema=_SCHEMA))
        except ArchiveError:
            # Another writer may have made it at the same moment.
            if open_dataset(archive_uri, WRITER_TABLE) is None:
                raise
        dataset = open_dataset(archive_uri, WRITER_TABLE)
    if dataset is None:
        raise ArchiveError(
            f"{archive_uri} has no table {WRITER_TABLE!r} and none could be made", uri=archive_uri
        )
    return dataset


def _read(archive_uri: str) -> _Row:
    dataset = _dataset(archive_uri)
    with lance_errors(archive_uri, f"read table {WRITER_TABLE!r} of"):
        rows = dataset.to_table().to_pylist()
    if len(rows) != 1:
        raise ArchiveError(
            f"{archive_uri} is damaged: its table {WRITER_TABLE!r} holds {len(rows)} rows where an archive has 1",
            uri=archive_uri,
        )
    return _Row(**rows[0])


def _change(archive_uri: str, row: _Row, values: dict[str, Any]) -> bool:
    """Put ``values`` in the place of exactly ``row``; whether it was still there."""
    with lance_errors(archive_uri, "take the lease of"):
        where = f"{equals('holder', row.holder)} AND beat = {row.beat}"
        done = _dataset(archive_uri).update(_literals(values), where=where)
    return bool(done["num_rows_updated"])


def _literals(values: dict[str, Any]) -> dict[str, str]:
    """SQL literals of values, for Lance's update."""
    return {
        name: str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
        for name, value in values.items()
    }


def _description(holder: str) -> dict[str, Any]:
    process, host = os.getpid(), socket.gethostname()
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "holder": holder,
        "place": _place(),
        "process": _started(process),
        "shown": f"process {process} on {host} since {since}",
        "beat": 0,
    }


def _now() -> float:
    """Seconds that go on while the machine sleeps, and do not jump when its clock is set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
