"""The lease's table ``writer``: one row that names the writer that holds the archive.

The row is changed with conditional updates, which Lance makes atomic on disks and in object stores alike.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa

from malmm.pipeline.archive.location import ensure_dataset, lance_errors
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.process_identity import place, started
from malmm.pipeline.schema.errors import ArchiveError

__all__ = [
    "FREE",
    "NOBODY",
    "UNSURE",
    "WRITER_TABLE",
    "LeaseRow",
    "change",
    "description",
    "literals",
    "open_writer",
    "read",
]

WRITER_TABLE = "writer"
NOBODY = 24 * "0"
FREE = {"holder": NOBODY, "place": "", "process": "", "shown": "", "beat": 0}
"""The row of an archive that has no writer."""
UNSURE = FREE | {"shown": "ended in an error"}
"""The row if the last writer ended in an error: a commit of it may still be on its way to the store."""

_SCHEMA = pa.schema(
    [
        pa.field("holder", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("process", pa.string(), nullable=False),
        pa.field("shown", pa.string(), nullable=False),
        pa.field("beat", pa.int64(), nullable=False),
    ]
)
# Creation time of the table in nanoseconds (not recorded by 0.1), so that tokens still rise if the table is deleted.
_MADE = b"malmm.made"
_VERSIONS = 32


@dataclass(frozen=True)
class LeaseRow:
    """The holder: an id of this lease, its machine and process, the text shown to users, and how often it renewed."""

    holder: str
    place: str
    process: str
    shown: str
    beat: int


def open_writer(archive_uri: str) -> lance.LanceDataset:
    """Open the table ``writer``; create it if there is none. Raises ArchiveError."""
    schema = _SCHEMA.with_metadata({_MADE: str(time.time_ns())})
    return ensure_dataset(archive_uri, WRITER_TABLE, pa.Table.from_pylist([FREE], schema=schema))


def read(archive_uri: str) -> LeaseRow:
    """Read the current row. Raises ArchiveError."""
    dataset = open_writer(archive_uri)
    with lance_errors(archive_uri, f"read table {WRITER_TABLE!r} of"):
        rows = dataset.to_table().to_pylist()
    if len(rows) != 1:
        raise ArchiveError(
            f"{archive_uri} is damaged: its table {WRITER_TABLE!r} holds {len(rows)} rows where an archive has 1",
            uri=archive_uri,
        )
    return LeaseRow(**rows[0])


def change(archive_uri: str, row: LeaseRow, values: dict[str, Any]) -> int | None:
    """Compare and swap: update the row to ``values`` if it is still exactly ``row``.

    Returns the new fencing token, a number greater than those of all changes before; None if the row had changed.
    """
    dataset = open_writer(archive_uri)
    with lance_errors(archive_uri, "take the lease of"):
        where = f"{equals('holder', row.holder)} AND beat = {row.beat}"
        done = dataset.update(literals(values), where=where)
        made = int((dataset.schema.metadata or {}).get(_MADE, b"0"))
        return (made << _VERSIONS) + dataset.version if done["num_rows_updated"] else None


def literals(values: dict[str, Any]) -> dict[str, str]:
    """Values as SQL literals, for Lance's update."""
    return {
        name: str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
        for name, value in values.items()
    }


def description(holder: str) -> dict[str, Any]:
    """The row that names this process as the writer."""
    process, host = os.getpid(), socket.gethostname()
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return {
        "holder": holder,
        "place": place(),
        "process": started(process),
        "shown": f"process {process} on {host} since {since}",
        "beat": 0,
    }
