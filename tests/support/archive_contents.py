"""All that readers see of an archive, in an order of its own, to compare runs."""

from __future__ import annotations

from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader

TABLES = ("videos", "segments", "memories", "annotations", "failures", "recipes")
# When something was done differs between runs that did the same.
TIMES = ("indexed_at", "created_at", "first_seen", "last_seen")


def contents(archive: ArchiveReader) -> dict[str, Any]:
    """Rows of every table by id, times of doing left out, and tokens as bytes by segment."""
    columns = [name for name in archive.schema("memories").names if name != "tokens"]
    ids = sorted(archive.completed_segments())
    tables = {
        "videos": archive.videos(),
        "segments": archive.segments(),
        "memories": archive.memory_rows(ids, columns),
        "annotations": archive.annotations(),
    }
    found: dict[str, Any] = {}
    for name, table in tables.items():
        key = {"videos": "video_id", "segments": "segment_id", "memories": "memory_id"}.get(
            name, "annotation_id"
        )
        rows = table.drop_columns([time for time in TIMES if time in table.column_names]).to_pylist()
        found[name] = {row[key]: row for row in rows}
        assert len(found[name]) == len(rows) == archive.count(name), f"{name}: rows that are there twice"
    found["tokens"] = {
        key: (tokens.shape, tokens.tobytes(), sizes.tobytes())
        for key, tokens, sizes in archive.memory_tokens(ids)
    }
    return found


def versions(archive: ArchiveReader, *names: str) -> dict[str, int]:
    """Each table's version: it grows with whatever is written."""
    return {name: archive.table(name).version for name in names or TABLES}
