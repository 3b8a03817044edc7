"""Sweep what a killed run left: orphaned rows (of segments and videos that are not done) and uncommitted files."""

from __future__ import annotations

from collections.abc import Iterable

from malmm.pipeline.archive.compaction import remove_files, unnamed_files
from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter

__all__ = ["discard_orphans", "sweep_orphans"]


def sweep_orphans(tables: TableReader, writer: TableWriter, *, files: bool) -> dict[str, int]:
    """Delete memory and texts of segments that are not done, and whole-video texts of videos that are not done.

    Reads only id columns. With ``files``, deletes uncommitted memory files too. Returns the rows deleted by table.
    """
    done = tables.ids("segments", "segment_id")
    deleted = {
        name: writer.delete(name, "segment_id", tables.ids(name, "segment_id") - done)
        for name in ("memories", "annotations")
    }
    whole = tables.ids("annotations", "video_id", ["segment_id IS NULL"]) - tables.ids("videos", "video_id")
    deleted["annotations"] += writer.delete("annotations", "video_id", whole, "segment_id IS NULL")
    if files:
        _remove_unnamed_files(tables, writer)
    return deleted


def discard_orphans(tables: TableReader, writer: TableWriter, segment_ids: Iterable[str]) -> None:
    """Delete memory and texts of those of the given segments that are not done."""
    orphans = set(segment_ids) - tables.completed_among(segment_ids)
    for name in ("memories", "annotations"):
        writer.delete(name, "segment_id", orphans)


def _remove_unnamed_files(tables: TableReader, writer: TableWriter) -> None:
    """Delete memory files that a killed run's workers wrote: megabytes a slot, which Lance would keep for a week."""
    names = unnamed_files(writer.dataset("memories"), tables.uri)
    if names:
        # If the lease still holds after the listing, all files found are of dead runs. They stay so, however long
        # deleting takes.
        writer.dataset("memories")
        remove_files(table_uri(tables.uri, "memories"), names)
