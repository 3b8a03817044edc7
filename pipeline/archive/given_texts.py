"""Store texts with spans of their own, each once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.migration import add_given_columns
from malmm.pipeline.archive.predicates import equals, is_in
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.text_grams import with_grams

__all__ = ["Added", "add_given", "replace_spans", "replace_tracks"]

#: Columns in which a text of the same id may differ when it is given again.
_CONTENT = ("text", "score", "speaker")


@dataclass(frozen=True)
class Added:
    """Numbers of texts that were ``new``, that ``changed`` a stored one, and that were stored already."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: Added) -> Added:
        return Added(self.new + other.new, self.changed + other.changed, self.unchanged + other.unchanged)


def add_given(tables: TableReader, writer: TableWriter, rows: pa.Table) -> Added:
    """Add texts, and replace stored ones of the same id whose content differs. ``rows`` has each id once."""
    add_given_columns(writer)
    ids = rows["annotation_id"].to_pylist()
    before = {
        row["annotation_id"]: tuple(row[name] for name in _CONTENT)
        for row in tables.rows(
            "annotations", is_in("annotation_id", ids), ["annotation_id", *_CONTENT]
        ).to_pylist()
    }
    contents = zip(*(rows[name].to_pylist() for name in _CONTENT), strict=True)
    states = [
        "new" if key not in before else "unchanged" if before[key] == content else "changed"
        for key, content in zip(ids, contents, strict=True)
    ]
    schema, state = tables.dataset("annotations").schema, pa.array(states, pa.string())
    writer.append("annotations", with_grams(rows.filter(pc.equal(state, "new")), schema))
    writer.upsert("annotations", "annotation_id", with_grams(rows.filter(pc.equal(state, "changed")), schema))
    return Added(*(states.count(name) for name in ("new", "changed", "unchanged")))


def replace_tracks(
    tables: TableReader, writer: TableWriter, rows: pa.Table, gone: Iterable[tuple[str, str]]
) -> Added:
    """Add texts as ``add_given`` does, then delete those of tracks that are not among them any more.

    ``gone`` are (video_id, track_id) whose texts are replaced by what ``rows`` has of them.
    """
    added = add_given(tables, writer, rows)
    kept = set(rows["annotation_id"].to_pylist())
    by_track: dict[str, list[str]] = {}
    for video, track in gone:
        by_track.setdefault(track, []).append(video)
    for track, videos in by_track.items():
        filters = [f"{part} AND {equals('prompt_version', track)}" for part in is_in("video_id", videos)]
        writer.delete(
            "annotations", "annotation_id", tables.ids("annotations", "annotation_id", filters) - kept
        )
    return added


def replace_spans(
    tables: TableReader, writer: TableWriter, rows: pa.Table, gone: Iterable[tuple[str, str, float, float]]
) -> Added:
    """Add texts as ``add_given`` does, then delete those of parts of tracks that are not among them any more.

    ``gone`` are (video_id, track_id, start_s, end_s): what begins there is replaced by what ``rows`` has of it.
    """
    added = add_given(tables, writer, rows) if rows.num_rows else Added()
    filters = [
        f"{equals('video_id', video)} AND {equals('prompt_version', track)} "
        f"AND start_s >= {start_s!r} AND start_s < {end_s!r}"
        for video, track, start_s, end_s in gone
    ]
    if filters:
        kept = set(rows["annotation_id"].to_pylist())
        old = tables.ids("annotations", "annotation_id", filters) - kept
        writer.delete("annotations", "annotation_id", old)
    return added
