"""The table ``tombstones``: which videos were forgotten, by their ids alone, so that no run indexes them again.

It lies at the archive's own address, for all recipes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.schema.tables import TOMBSTONES

__all__ = ["Tombstones", "forgotten_videos"]


def forgotten_videos(root: str) -> set[str]:
    """Ids of the videos that the archive at this address has forgotten."""
    tables = TableReader(root)
    return tables.ids("tombstones", "video_id") if tables.has("tombstones") else set()


@dataclass(frozen=True)
class Tombstones:
    """Changes the table, through a writer of the tables at the archive's own address."""

    tables: TableReader
    writer: TableWriter

    def raise_over(self, video_ids: Iterable[str]) -> None:
        """Record videos as forgotten. What is left of their rows is to be purged, also if it was once before."""
        now = datetime.now(UTC)
        rows = [{"video_id": video, "forgotten_at": now, "purged_at": None} for video in video_ids]
        self.writer.ensure("tombstones")
        self.writer.upsert("tombstones", "video_id", pa.Table.from_pylist(rows, schema=TOMBSTONES))

    def lift(self, video_ids: Iterable[str]) -> int:
        """Let videos be indexed again; returns how many had been forgotten."""
        if not self.tables.has("tombstones"):
            return 0
        return self.writer.delete("tombstones", "video_id", video_ids)

    def unpurged(self) -> list[str]:
        """Ids of forgotten videos of which old versions may still hold rows."""
        if not self.tables.has("tombstones"):
            return []
        return sorted(self.tables.ids("tombstones", "video_id", ["purged_at IS NULL"]))

    def mark_purged(self, video_ids: Iterable[str]) -> None:
        """Record that nothing is left of videos."""
        wanted = set(video_ids)
        rows = [row for row in self.tables.rows("tombstones").to_pylist() if row["video_id"] in wanted]
        now = datetime.now(UTC)
        self.writer.upsert(
            "tombstones",
            "video_id",
            pa.Table.from_pylist([row | {"purged_at": now} for row in rows], schema=TOMBSTONES),
        )
