"""Timed records of typed answers, as a condition on moments: those during which one of the records is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from malmm.pipeline.archive.predicates import equals, is_in

__all__ = ["Records", "meets"]

Row = Mapping[str, Any]
_Spans = tuple[tuple[float, float], ...]


def meets(row: Row, start_s: float, end_s: float) -> bool:
    """Whether a row's span has a part in [start_s, end_s), or holds the time that both are."""
    if start_s == end_s:
        return bool(row["start_s"] <= start_s <= row["end_s"])
    return bool(row["start_s"] < end_s and row["end_s"] > start_s)


@dataclass(frozen=True)
class Records:
    """The moments during which one of some records is, or with ``others`` none of them.

    ``ids`` are the records' own rows of ``annotations``, and ``version`` the ``prompt_version`` of all records of their
    prompt: of these rows the former pass, whatever else goes on at their time. ``spans`` has the records' seconds by
    video, joined where they overlap.
    """

    version: str
    ids: frozenset[str]
    spans: Mapping[str, _Spans] = field(hash=False)
    others: bool = False

    @classmethod
    def of(cls, version: str, rows: Iterable[Row], *, others: bool = False) -> Records:
        """Of rows with ``annotation_id``, ``video_id``, ``start_s`` and ``end_s``."""
        ids: set[str] = set()
        spans: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            ids.add(row["annotation_id"])
            spans.setdefault(row["video_id"], []).append((row["start_s"], row["end_s"]))
        joined = {video: _joined(own) for video, own in sorted(spans.items())}
        return cls(version, frozenset(ids), joined, others)

    @property
    def size(self) -> int:
        """The number of records."""
        return len(self.ids)

    def holds(self, row: Row) -> bool:
        """Whether a row is one of the records, or of another kind and at the time of one."""
        if row.get("prompt_version") == self.version:
            return (row["annotation_id"] in self.ids) != self.others
        found = any(meets(row, start_s, end_s) for start_s, end_s in self.spans.get(row["video_id"], ()))
        return found != self.others

    def may_hold(self, row: Row) -> bool:
        """Whether a text with this row may hold such a moment: a long one may go on when the records are over."""
        return (self.others and row.get("prompt_version") != self.version) or self.holds(row)

    def sql(self, *, texts: bool = False) -> str:
        """The same as SQL."""
        times = _any_of([self._at(video, own) for video, own in self.spans.items()])
        if not texts:
            return f"NOT {times}" if self.others else times
        ids = _any_of([f"({part})" for part in is_in("annotation_id", sorted(self.ids))])
        own = equals("prompt_version", self.version)
        elsewhere = f"(prompt_version IS NULL OR NOT ({own}))"
        if self.others:
            return f"({elsewhere} OR NOT {ids})"
        return f"(({elsewhere} AND {times}) OR {ids})"

    @staticmethod
    def _at(video: str, spans: _Spans) -> str:
        times = [
            f"(start_s <= {start_s!r} AND end_s >= {start_s!r})"
            if start_s == end_s
            else f"(start_s < {end_s!r} AND end_s > {start_s!r})"
            for start_s, end_s in spans
        ]
        return f"({equals('video_id', video)} AND {_any_of(times)})"


def _joined(spans: list[tuple[float, float]]) -> _Spans:
    """Spans in time order, those that overlap as one."""
    joined: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if joined and start_s < joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end_s)
        elif not joined or (start_s, end_s) != joined[-1]:
            joined.append((start_s, end_s))
    return tuple(joined)


def _any_of(conditions: Sequence[str]) -> str:
    """Conditions joined by OR, as a tree: parsers descend as deep into a chain as it is long."""
    if not conditions:
        return "(false)"
    if len(conditions) == 1:
        return conditions[0]
    half = len(conditions) // 2
    return f"({_any_of(conditions[:half])} OR {_any_of(conditions[half:])})"
