"""One writer at a time: the lease that a run holds on its archive.

A table of one row says who writes (``lease_table``). A holder counts its row up every few seconds (``lease_renewal``);
one that stops doing so has died, and the next writer takes over. Nobody's clock is compared with anybody's: a writer
that finds another there watches whether the count moves, on its own clock. A holder that was not dead but asleep is
kept out of the tables by a fence (``fencing``).
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from malmm.pipeline.archive import lease_renewal
from malmm.pipeline.archive.fencing import raise_fence
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
from malmm.pipeline.archive.processes import is_alive, place
from malmm.pipeline.archive.store_check import check_store, store_name
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError
from malmm.pipeline.schema.tables import table_schemas

__all__ = ["Lease"]

_POLL_S = 1.0
_PLACE, _STORE = "malmm.place:", "malmm.store"
# This process's own: a lease that it could not give back, the store being away, must not shut itself out.
_HELD: set[str] = set()


class Lease:
    """Held from ``take`` to ``give_back``, which a ``with`` block does; or until its holder is taken for dead.

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

        ``archive_uri`` is ``Archive.root``; ``tables_at`` is where the tables lie that this writer will change,
        relative to it. A holder on another machine is watched for up to ``patience_s`` seconds; once it is taken for
        dead, it can change no table any more. Raises ArchiveBusy when one lives, and ArchiveError when the archive
        cannot be reached.
        """
        patience_s = lease_renewal.PATIENCE_S if patience_s is None else patience_s
        holder = secrets.token_hex(12)
        # Before anything is written there: whoever takes over has to know where fences are needed.
        _announce(archive_uri, tables_at)
        began_s, seen = now_s(), None
        while True:
            row = read(archive_uri)
            is_silent = row == seen and now_s() - began_s >= patience_s
            if row.holder == NOBODY or is_silent or _is_gone(row):
                token = change(archive_uri, row, description(holder))
                if token is not None:
                    if row.holder != NOBODY or row.shown:
                        # If this fails, the row stays that of a writer who is gone, and the next one tries again.
                        _fence_off(archive_uri, token)
                    lease = cls(archive_uri, holder, token)
                    _HELD.add(holder)
                    lease._renewal.start()
                    return lease
                # Somebody was quicker, and lives.
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
        """Raise ArchiveBusy when the lease is known to be lost. To be called before whatever is committed."""
        self._renewal.check()

    def give_back(self, *, is_sure: bool = True) -> None:
        """Let the next writer in. What is not given back is free when its process is found dead, or silent.

        ``is_sure`` is False where a commit may still be under way, as after an error.
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
        # What ended the run matters more than a store that is away; silence frees the lease as well.
        with suppress(ArchiveError):
            self.give_back(is_sure=error is None)


def _announce(archive_uri: str, tables_at: str) -> None:
    """Note where this writer will write, and that the store was found good for it; a moved archive's is tried anew."""
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
        # Another writer may have noted the same at the same moment.
        if not wanted.items() <= open_writer(archive_uri).config().items():
            raise


def _fence_off(archive_uri: str, token: int) -> None:
    """Keep every writer before this one out of all tables of the archive, wherever one was about to write."""
    places = [key.removeprefix(_PLACE) for key in open_writer(archive_uri).config() if key.startswith(_PLACE)]
    for tables_at in ["", *places]:
        for name in table_schemas(1):
            raise_fence(f"{archive_uri}/{tables_at}" if tables_at else archive_uri, name, token)


def _is_gone(row: LeaseRow) -> bool:
    """Whether this machine can tell that the holder's process has ended."""
    if row.place != place():
        return False
    is_own = row.process.split("/")[0] == str(os.getpid())
    return is_alive(row.process) is False or (is_own and row.holder not in _HELD)


def _is_here(row: LeaseRow) -> bool:
    """Whether this machine can tell that the holder lives, so that there is no need to watch it."""
    return row.place == place() and is_alive(row.process) is True and not _is_gone(row)
