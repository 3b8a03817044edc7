"""One writer at a time: the lease that a run holds on its archive.

A table of one row names the holder (``lease_table``). The holder increments a counter in it every few seconds
(``lease_renewal``). If the counter stands still for long, the holder counts as dead and the next writer takes over. No
two clocks are compared: a waiting writer watches the counter and measures on its own clock. A holder that was only
paused is fenced off (``fencing``).
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from malmm.pipeline.archive import lease_renewal
from malmm.pipeline.archive.fencing import overtaken, raise_fence
from malmm.pipeline.archive.lease_renewal import Renewal, now_s
from malmm.pipeline.archive.lease_table import (
    FREE,
    NOBODY,
    UNSURE,
    LeaseRow,
    change,
    description,
    literals,
    open_writer,
    read,
)
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.process_identity import is_alive, place
from malmm.pipeline.archive.store_check import check_store, store_name
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError
from malmm.pipeline.schema.tables import COLLECTED_VECTORS, LATER_TABLES, table_schemas

__all__ = ["Lease"]

_POLL_S = 1.0
_PLACE, _STORE = "malmm.place:", "malmm.store"
# Holder ids of this process. A lease that could not be given back (store unreachable) must not lock out this process.
_HELD: set[str] = set()


class Lease:
    """A lease, held from ``take`` to ``give_back`` (the end of a ``with`` block), or until its holder counts as dead.

    ``token`` is the writer's fencing token, which ``fencing.check_token`` compares with that of a table.
    """

    def __init__(self, archive_uri: str, holder: str, token: int) -> None:
        self.archive_uri = archive_uri
        self.holder = holder
        self.token = token
        self._renewal = Renewal(archive_uri, holder)

    @classmethod
    def take(cls, archive_uri: str, tables_at: str = "", *, patience_s: float | None = None) -> Self:
        """Become the archive's writer.

        ``archive_uri`` is ``Archive.root``; ``tables_at`` is the place of the tables that this writer will change,
        relative to it. A holder whose process cannot be looked up is watched for ``patience_s`` seconds; if it is
        silent all that time it counts as dead and is fenced off. Raises ArchiveBusy if the holder is alive, and
        ArchiveError if the archive cannot be reached.
        """
        patience_s = lease_renewal.PATIENCE_S if patience_s is None else patience_s
        holder = secrets.token_hex(12)
        # Before anything is written there: the next writer must know which tables to fence.
        _announce(archive_uri, tables_at)
        began_s, seen = now_s(), None
        while True:
            row = read(archive_uri)
            is_silent = row == seen and now_s() - began_s >= patience_s
            if row.holder == NOBODY or is_silent or _is_gone(row):
                token = change(archive_uri, row, description(holder))
                if token is not None:
                    if row.holder != NOBODY or row.shown:
                        # If this fails, the row names a writer that is gone, and the next writer fences again.
                        _fence_off(archive_uri, token)
                    lease = cls(archive_uri, holder, token)
                    _HELD.add(holder)
                    lease._renewal.start()
                    return lease
                # Another writer was quicker, and is alive.
                began_s, seen = now_s(), None
                continue
            if _is_here(row) or (seen is not None and row != seen):
                raise ArchiveBusy(
                    f"{archive_uri} is being written by {row.shown}: wait for it to end, or stop it",
                    uri=archive_uri,
                )
            if seen is None:
                began_s, seen = now_s(), row
            time.sleep(min(_POLL_S, patience_s / 4))

    def check(self) -> None:
        """Raise ArchiveBusy if the lease is lost. Call it before each commit."""
        self._renewal.check()

    def confirm(self) -> None:
        """Raise ArchiveBusy if the store names another holder: later writers may not have fenced a table yet."""
        self.check()
        if read(self.archive_uri).holder != self.holder:
            raise overtaken(self.archive_uri)

    def give_back(self, *, is_sure: bool = True) -> None:
        """Release the lease. One that is not released becomes free once its process is found dead or silent.

        ``is_sure`` is False if a commit may still be on its way to the store, as after an error.
        """
        self._renewal.stop()
        _HELD.discard(self.holder)
        if not self._renewal.is_lost:
            with lance_errors(self.archive_uri, "give back the lease of"):
                row = FREE if is_sure else UNSURE
                open_writer(self.archive_uri).update(literals(row), where=equals("holder", self.holder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The error that ended the run matters more than an unreachable store, and the lease runs out anyway.
        with suppress(ArchiveError):
            self.give_back(is_sure=error is None)


def _announce(archive_uri: str, tables_at: str) -> None:
    """Record where this writer will write, and that the store passed ``check_store``. Checks again after a move."""
    wanted = {_STORE: store_name(archive_uri)} | ({_PLACE + tables_at: "1"} if tables_at else {})
    dataset = open_writer(archive_uri)
    if wanted.items() <= dataset.config().items():
        return
    if dataset.config().get(_STORE) != wanted[_STORE]:
        check_store(archive_uri)
    try:
        with lance_errors(archive_uri, "take the lease of"):
            dataset.update_config(wanted)
    except ArchiveError:
        # Another writer may have recorded the same at the same moment.
        if not wanted.items() <= open_writer(archive_uri).config().items():
            raise


def _fence_off(archive_uri: str, token: int) -> None:
    """Fence off all earlier writers from every table of the archive, wherever they recorded that they write."""
    places = [key.removeprefix(_PLACE) for key in open_writer(archive_uri).config() if key.startswith(_PLACE)]
    for tables_at in ["", *places]:
        # Tables that may be missing come last: a writer that creates one later finds the lease taken (``confirm``).
        for name in (*table_schemas(1), COLLECTED_VECTORS, *LATER_TABLES):
            raise_fence(f"{archive_uri}/{tables_at}" if tables_at else archive_uri, name, token)


def _is_gone(row: LeaseRow) -> bool:
    """Whether this machine can tell that the holder's process has ended."""
    if row.place != place():
        return False
    is_own = row.process.split("/")[0] == str(os.getpid())
    return is_alive(row.process) is False or (is_own and row.holder not in _HELD)


def _is_here(row: LeaseRow) -> bool:
    """Whether this machine can tell that the holder is alive, so that there is no need to watch it."""
    return row.place == place() and is_alive(row.process) is True and not _is_gone(row)
