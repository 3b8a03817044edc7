"""Facets: how the moments that a search found are spread over videos, days, labels, typed answers and metadata.

Each value comes with the filter (``archive.filters``) that leaves the moments that it counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from malmm.pipeline.archive.answer_columns import AnswerColumn, answer_columns
from malmm.pipeline.archive.filter_values import text_literal
from malmm.pipeline.archive.filters import VIDEO_COLUMNS, written_name
from malmm.pipeline.archive.metadata_values import metadata_of, readers_of, video_values
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.record_scope import meets
from malmm.pipeline.archive.video_metadata import MetadataColumn
from malmm.pipeline.schema.tables import MOMENT, RECORD
from malmm.pipeline.searching.fusion import Moment

__all__ = ["Facet", "FacetValue", "facets_of"]

_MOST_VALUES = 20
#: Typed answers, and timed records in them.
_ANSWERED = f"task IN ('{RECORD}', '{MOMENT}')"
_LABELS = ["segment_id", "video_id", "prompt_name", "text", "created_at"]
_ANSWER_COLUMNS = [
    *("segment_id", "video_id", "start_s", "end_s", "created_at"),
    *("task", "prompt_name", "prompt_version"),
]
_Record = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class FacetValue:
    """A value, how many moments have it, and the filter that leaves them."""

    value: str
    count: int
    where: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Facet:
    """The most frequent values of one column, by count. ``others`` moments have less frequent ones."""

    name: str
    values: tuple[FacetValue, ...]
    others: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "values": [value.to_dict() for value in self.values],
            "others": self.others,
        }


def facets_of(archive: ArchiveReader, moments: Sequence[Moment]) -> list[Facet]:
    """Facets of moments: videos, days of each time in their metadata, text and truth values in it, and labels.

    Days are those of indexing where metadata has no time. A facet that no moment has a value of is left out.
    """
    if not moments:
        return []
    known = metadata_of(archive)
    times = [each for each in known.values() if each.kind == "timestamp"]
    plain = [each for each in known.values() if each.kind in ("string", "bool")]
    videos = {row["video_id"]: row for row in video_values(archive, {each.video_id for each in moments})}
    rows = [videos.get(moment.video_id, {}) for moment in moments]
    values = [row.get("metadata", {}) for row in rows]
    facets = [
        _facet("video", ((row.get("uri"), "video_id", row.get("video_id")) for row in rows)),
        *(_days(written(each), [own.get(each.key) for own in values]) for each in times),
        *(
            _facet(each.key, ((_plain(own.get(each.key)), written(each), None) for own in values))
            for each in plain
        ),
    ]
    if not times:
        facets.insert(1, _days("indexed_at", [row.get("indexed_at") for row in rows]))
    labels = _labels_of(archive, moments)
    for prompt in sorted({name for found in labels for name in found}):
        name = f"label.{written_name(prompt)}"
        facets.append(_facet(name, ((found.get(prompt), name, None) for found in labels)))
    facets += _answer_facets(archive, moments)
    return [facet for facet in facets if facet.values]


def written(column: MetadataColumn) -> str:
    """A metadata column as a filter names it."""
    taken = column.key.casefold() in (*VIDEO_COLUMNS, "start_s", "end_s")
    return ("meta." if taken else "") + written_name(column.key)


def _facet(name: str, found: Iterable[tuple[str | None, str, str | None]]) -> Facet:
    """A facet of (value, column, value in the filter if it is another) of moments; None is no value."""
    counted = Counter(each for each in found if each[0] is not None)
    most = sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0][0])))
    values = tuple(
        FacetValue(str(value), count, f"{column} = {text_literal(str(value) if key is None else key)}")
        for (value, column, key), count in most[:_MOST_VALUES]
    )
    return Facet(name, values, sum(count for _, count in most[_MOST_VALUES:]))


def _days(name: str, times: Sequence[datetime | None]) -> Facet:
    days = [None if time is None else time.date().isoformat() for time in times]
    return _facet(f"day.{name}", ((day, name, None) for day in days))


def _plain(value: Any) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _answer_facets(archive: ArchiveReader, moments: Sequence[Moment]) -> list[Facet]:
    """Facets of texts and truth values in typed answers about the moments' segments, or whole videos, and in timed
    records that go on at the moments."""
    answers: dict[str, dict[str, Any]] = {}
    records: defaultdict[str, list[_Record]] = defaultdict(list)
    newest: dict[str, str] = {}
    for reader, _ in readers_of(archive):
        known = answer_columns(reader.schema("annotations")).values()
        plain = [each for each in known if each.kind in ("string", "bool")]
        if not plain:
            continue
        columns = [*_ANSWER_COLUMNS, *(each.column for each in plain)]
        rows = reader.tables.rows("annotations", _about(moments, _ANSWERED), columns)
        for row in rows.sort_by("created_at").to_pylist():
            own = {_written(each): row[each.column] for each in plain if row[each.column] is not None}
            if row["task"] == RECORD:
                answers.setdefault(row["segment_id"] or row["video_id"], {}).update(own)
                continue
            newest[row["prompt_name"]] = row["prompt_version"]
            records[row["video_id"]].append((row, own))
    values: list[dict[str, set[str]]] = []
    for moment in moments:
        found: defaultdict[str, set[str]] = defaultdict(set)
        of_segment = answers.get(moment.slot.segment_id, {}) if moment.slot else {}
        at_it = [
            own
            for row, own in records[moment.video_id]
            if newest[row["prompt_name"]] == row["prompt_version"] and _goes_on_at(moment, row)
        ]
        for own in (answers.get(moment.video_id, {}) | of_segment, *at_it):
            for name, value in own.items():
                found[name].add(str(_plain(value)))
        values.append(found)
    names = sorted({name for own in values for name in own})
    return [
        _facet(name, ((value, name, None) for own in values for value in own.get(name, ()))) for name in names
    ]


def _written(column: AnswerColumn) -> str:
    """A column of answers as a filter names it."""
    parts = [column.prompt, *(column.path.split(".") if column.path else [])]
    return ".".join(["answer", *map(written_name, parts)])


def _goes_on_at(moment: Moment, record: dict[str, Any]) -> bool:
    """Whether a timed record goes on at a moment, as its filter sees it: at the moment's slot, or its own span."""
    spans = [vars(moment), *([vars(moment.slot)] if moment.slot is not None else [])]
    return any(meets(span, record["start_s"], record["end_s"]) for span in spans)


def _labels_of(archive: ArchiveReader, moments: Sequence[Moment]) -> list[dict[str, str]]:
    """The labels of each moment by prompt: its segment's, and of prompts that it has none of its video's."""
    wanted = _about(moments, "task = 'classification'")
    rows = archive.tables.rows("annotations", wanted, _LABELS).sort_by("created_at").to_pylist()
    # A later text takes the place of an earlier one.
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["segment_id"] or row["video_id"], {})[row["prompt_name"]] = row["text"]
    return [
        found.get(moment.video_id, {}) | (found.get(moment.slot.segment_id, {}) if moment.slot else {})
        for moment in moments
    ]


def _about(moments: Sequence[Moment], condition: str) -> list[str]:
    """Filters for texts about the moments' segments, or their whole videos, that meet a condition."""
    of_segments = is_in("segment_id", {moment.slot.segment_id for moment in moments if moment.slot})
    of_videos = is_in("video_id", {moment.video_id for moment in moments})
    wanted = [f"{part} AND {condition}" for part in of_segments]
    return wanted + [f"{part} AND segment_id IS NULL AND {condition}" for part in of_videos]
