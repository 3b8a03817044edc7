"""The table ``passes``: which steps are done with which videos, also where they left no row.

A step's version decides, with the video and its content, whether it is done: another model is another version. A row is
committed after all that the step made, so that a killed run does again what it may not have stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.schema.stable_ids import stable_id
from malmm.pipeline.schema.tables import PASSES

__all__ = ["Pass", "finish", "finished"]


@dataclass(frozen=True)
class Pass:
    """A step with a video of some content."""

    video_id: str
    fingerprint: str
    step: str
    version: str

    @property
    def pass_id(self) -> str:
        """Its key in the table."""
        return stable_id("pass", self.video_id, self.fingerprint, self.step, self.version)


def finished(tables: TableReader) -> set[str]:
    """Ids of all passes that are done."""
    return tables.ids("passes", "pass_id") if tables.has("passes") else set()


def finish(writer: TableWriter, done: Iterable[Pass]) -> None:
    """Record passes as done."""
    now = datetime.now(UTC)
    rows = [
        {
            "pass_id": each.pass_id,
            "video_id": each.video_id,
            "step": each.step,
            "version": each.version,
            "done_at": now,
        }
        for each in done
    ]
    if rows:
        writer.ensure("passes")
        writer.upsert("passes", "pass_id", pa.Table.from_pylist(rows, schema=PASSES))
