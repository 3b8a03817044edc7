"""The part of an archive that is searched: conditions over the rows of ``memories`` and ``annotations``.

A scope is a list of conditions that all have to hold. Each is a set of videos, a set of segments, timed records of
answers, a comparison of a moment's span, or a combination of those. It says the same in two ways: as SQL, for Lance to
apply before it searches, and as a predicate on a row, for conditions with so many ids that Lance would parse them for
longer than it searches.

Texts are about a segment or a video, and a moment is a part of it. So for texts there is a wider condition, too: what
may hold such a moment (``texts=True``).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from malmm.pipeline.archive.predicates import IDS_PER_FILTER, is_in
from malmm.pipeline.archive.record_scope import Records

__all__ = ["Both", "Either", "Part", "Scope", "Segments", "Span", "Videos"]

Row = Mapping[str, Any]
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Videos:
    """The videos with these ids."""

    ids: frozenset[str]

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self.ids)

    def holds(self, row: Row) -> bool:
        """Whether a row is of one of the videos."""
        return row["video_id"] in self.ids

    def may_hold(self, row: Row) -> bool:
        """As ``holds``."""
        return self.holds(row)

    def sql(self, *, texts: bool = False) -> str:
        """The same as SQL."""
        return _any_of("video_id", self.ids)


@dataclass(frozen=True)
class Segments:
    """The segments with these ids, or with ``others`` all but them."""

    ids: frozenset[str]
    others: bool = False

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self.ids)

    def holds(self, row: Row) -> bool:
        """Whether a row is of one of the segments. A text about a whole video is of none."""
        return row["segment_id"] is not None and (row["segment_id"] in self.ids) != self.others

    def may_hold(self, row: Row) -> bool:
        """Whether a text with this row may be about one of the segments: also if it is about a whole video."""
        return row["segment_id"] is None or self.holds(row)

    def sql(self, *, texts: bool = False) -> str:
        """The same as SQL; for texts those about whole videos are in."""
        said = _any_of("segment_id", self.ids)
        said = f"NOT ({said})" if self.others else said
        return f"(segment_id IS NULL OR {said})" if texts else said


@dataclass(frozen=True)
class Span:
    """A comparison of ``start_s`` or ``end_s`` with a number of seconds."""

    column: str
    sign: str
    value: float
    size: int = 0

    def holds(self, row: Row) -> bool:
        """Whether a row's span compares so."""
        return _COMPARE[self.sign](row[self.column], self.value)

    def may_hold(self, row: Row) -> bool:
        """Whether the span of a text with this row may hold a shorter one that compares so."""
        begun, not_over = row["start_s"] <= self.value, row["end_s"] >= self.value
        if self.sign in ("=", "!="):
            return self.sign == "!=" or (begun and not_over)
        return bool(begun if self.sign in ("<", "<=") else not_over)

    def sql(self, *, texts: bool = False) -> str:
        """The same as SQL; for texts, whether their span may hold a shorter one that compares so."""
        if not texts:
            return f"{self.column} {self.sign} {self.value!r}"
        earliest, latest = f"start_s <= {self.value!r}", f"end_s >= {self.value!r}"
        if self.sign == "!=":
            return "true"
        if self.sign == "=":
            return f"({earliest} AND {latest})"
        return earliest if self.sign in ("<", "<=") else latest


@dataclass(frozen=True)
class Both:
    """All parts hold."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """The number of ids in all parts."""
        return sum(part.size for part in self.parts)

    def holds(self, row: Row) -> bool:
        """Whether all parts hold for a row."""
        return all(part.holds(row) for part in self.parts)

    def may_hold(self, row: Row) -> bool:
        """Whether all parts may hold for a text's row."""
        return all(part.may_hold(row) for part in self.parts)

    def sql(self, *, texts: bool = False) -> str:
        """The same as SQL."""
        return " AND ".join(f"({part.sql(texts=texts)})" for part in self.parts) or "true"


@dataclass(frozen=True)
class Either:
    """One of the parts holds."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """The number of ids in all parts."""
        return sum(part.size for part in self.parts)

    def holds(self, row: Row) -> bool:
        """Whether a part holds for a row."""
        return any(part.holds(row) for part in self.parts)

    def may_hold(self, row: Row) -> bool:
        """Whether a part may hold for a text's row."""
        return any(part.may_hold(row) for part in self.parts)

    def sql(self, *, texts: bool = False) -> str:
        """The same as SQL."""
        return " OR ".join(f"({part.sql(texts=texts)})" for part in self.parts) or "false"


Part = Videos | Segments | Records | Span | Both | Either


@dataclass(frozen=True)
class Scope:
    """Rows for which all ``parts`` hold; without parts, all rows."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Scope:
        """A scope of parts, in which conditions on the same ids are one."""
        flat: list[Part] = []
        for part in parts:
            flat.extend(part.parts if isinstance(part, Both) else [part])
        videos = [part.ids for part in flat if isinstance(part, Videos)]
        segments = [part.ids for part in flat if isinstance(part, Segments) and not part.others]
        rest = [part for part in flat if not isinstance(part, (Videos, Segments)) or _excludes(part)]
        joined: list[Part] = []
        if videos:
            joined.append(Videos(reduce(frozenset.__and__, videos)))
        if segments:
            joined.append(Segments(reduce(frozenset.__and__, segments)))
        return cls((*joined, *rest))

    @classmethod
    def of_videos(cls, videos: Iterable[str] | None) -> Scope:
        """These videos; None for all."""
        return cls() if videos is None else cls((Videos(frozenset(videos)),))

    def within(self, videos: Iterable[str]) -> Scope:
        """The part of it that lies in these videos."""
        return Scope.of((*self.parts, Videos(frozenset(videos))))

    @property
    def is_all(self) -> bool:
        """Whether it is the whole archive."""
        return not self.parts

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be in it."""
        return any(
            isinstance(part, (Videos, Segments, Records)) and not part.size and not _excludes(part)
            for part in self.parts
        )

    @property
    def has_spans(self) -> bool:
        """Whether it depends on more than a row's video and segment."""
        return any(_has_span(part) for part in self.parts)

    @property
    def videos(self) -> frozenset[str] | None:
        """The videos that it lies in, if it names them."""
        return next((part.ids for part in self.parts if isinstance(part, Videos)), None)

    @property
    def is_videos(self) -> bool:
        """Whether it is made of whole videos."""
        return all(isinstance(part, Videos) for part in self.parts)

    def holds(self, row: Row) -> bool:
        """Whether a row with ``video_id``, ``segment_id``, ``start_s`` and ``end_s`` is in it."""
        return all(part.holds(row) for part in self.parts)

    def may_hold(self, row: Row) -> bool:
        """Whether a row may hold a moment that is in it."""
        return all(part.may_hold(row) for part in self.parts)

    def sql(self, *, texts: bool = False, at_most: int | None = None) -> str | None:
        """All conditions as SQL, or those with ``at_most`` so many ids; None without any."""
        said = [part.sql(texts=texts) for part in self.parts if at_most is None or part.size <= at_most]
        return " AND ".join(f"({each})" for each in said) or None

    def large(self, at_most: int = IDS_PER_FILTER) -> Sequence[Part]:
        """Parts with more ids than a search should parse."""
        return [part for part in self.parts if part.size > at_most]


def _excludes(part: Part) -> bool:
    return isinstance(part, (Segments, Records)) and part.others


def _has_span(part: Part) -> bool:
    return isinstance(part, (Span, Records)) or (
        isinstance(part, (Both, Either)) and any(map(_has_span, part.parts))
    )


def _any_of(column: str, ids: Iterable[str]) -> str:
    return " OR ".join(f"({part})" for part in is_in(column, sorted(ids))) or "false"
