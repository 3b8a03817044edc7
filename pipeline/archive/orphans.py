"""Clearing up after a killed run: rows of segments and videos that are not done, and files that nobody committed."""

from __future__ import annotations

from collections.abc import Iterable

from malmm.pipeline.archive.compaction import remove_files, unnamed_files
from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter

__all__ = ["discard_orphans", "sweep_orphans"]


def sweep_orphans(tables: TableReader, writer: TableWriter) -> dict[str, int]:
    """Delete memory and texts of segments that are not done, and texts of whole videos that are not; rows by table.

    Reads only id columns. With a lease, memory that workers wrote and nobody committed goes too.
    """
    done = tables.ids("segments", "segment_id")
    deleted = {
        name: writer.delete(name, "segment_id", tables.ids(name, "segment_id") - done)
        for name in ("memories", "annotations")
    }
    whole = tables.ids("annotations", "video_id", ["segment_id IS NULL"]) - tables.ids("videos", "video_id")
    deleted["annotations"] += writer.delete("annotations", "video_id", whole, "segment_id IS NULL")
    if writer.lease is not None:
        _remove_unnamed_files(tables, writer)
    return deleted


def discard_orphans(tables: TableReader, writer: TableWriter, segment_ids: Iterable[str]) -> None:
    """Delete memory and texts of those of the given segments that are not done."""
    orphans = set(segment_ids) - tables.completed_among(segment_ids)
    for name in ("memories", "annotations"):
        writer.delete(name, "segment_id", orphans)


def _remove_unnamed_files(tables: TableReader, writer: TableWriter) -> None:
    """Delete the memory that a killed run's workers wrote: megabytes a slot, which Lance keeps for a week."""
    names = unnamed_files(writer.dataset("memories"), tables.uri)
    if names:
        # If this one is still the writer after it looked, all that it found is of dead runs, and stays so however
        # long it takes to delete it.
        writer.dataset("memories")
        remove_files(table_uri(tables.uri, "memories"), names)
