"""Metadata of videos across one archive or several read as one, where a key may have another type in each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from malmm.pipeline.archive.joined import members_of
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.video_metadata import MetadataColumn, metadata_columns

__all__ = ["metadata_of", "readers_of", "video_values"]


def readers_of(archive: ArchiveReader) -> list[tuple[ArchiveReader, Collection[str]]]:
    """The archives that are read as one, each with the ids of its videos that are read from another."""
    members = members_of(archive)
    return [(archive, ())] if members is None else [(each.reader, each.elsewhere) for each in members.now()]


def metadata_of(archive: ArchiveReader) -> dict[str, MetadataColumn]:
    """Metadata columns by key. A key of different types in several archives is text, and its note says so."""
    found: dict[str, MetadataColumn] = {}
    for reader, _ in readers_of(archive):
        for key, column in metadata_columns(reader.schema("videos")).items():
            before = found.setdefault(key, column)
            if before.kind != column.kind:
                note = f"text, because archives have it as different types: {before.kind} and {column.kind}"
                found[key] = MetadataColumn(key, before.column, "string", before.note or note)
    return dict(sorted(found.items()))


def video_values(archive: ArchiveReader, video_ids: Collection[str]) -> Iterator[dict[str, Any]]:
    """``video_id``, ``uri`` and ``indexed_at`` of each video, and ``metadata``, its typed values by key."""
    for reader, elsewhere in readers_of(archive):
        known = metadata_columns(reader.schema("videos"))
        columns = ["video_id", "uri", "indexed_at", *(each.column for each in known.values())]
        for row in reader.tables.rows("videos", is_in("video_id", video_ids), columns).to_pylist():
            if row["video_id"] not in elsewhere:
                values = {key: row[each.column] for key, each in known.items()}
                yield {name: row[name] for name in columns[:3]} | {"metadata": values}
