"""Candidates for a query: memory slots by vector search, and texts by full-text search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import IDS_PER_FILTER, is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.search_indexes import VECTORS_INDEX, has_index
from malmm.pipeline.searching.fusion import Slot, TextHit

__all__ = ["Candidates"]

_SLOTS_A_TEXT = 5
# Options of the approximate index.
_PROBES, _REFINE = 120, 5
_SLOT_COLUMNS = ["video_id", "segment_id", "slot", "start_s", "end_s", "timestamp_s"]
_TEXT_COLUMNS = ["video_id", "segment_id", "start_s", "end_s", "text"]
# Search for rows of many videos: the most rows to search, the factor from step to step, and the spare of the first
# step.
_LOOKED_THROUGH, _MORE, _SPARE = 20_000, 4, 1.5

Row = dict[str, Any]
Videos = tuple[str, ...] | None


class Candidates:
    """Finds candidates in one archive. Every call reads the latest commit."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive

    def slots(self, query: np.ndarray, count: int, videos: Videos, *, exact: bool = False) -> list[Slot]:
        """The slots nearest to unit vectors [V] or [Q, V], nearest first."""
        table = self._archive.table("memories")
        approximate = not exact and has_index(table, VECTORS_INDEX)

        def find(limit: int, where: str | None) -> list[Row]:
            asked = table.search(query.astype(np.float32), vector_column_name="vectors").distance_type(
                "cosine"
            )
            # docs/retrieval.md has the measurements.
            asked = (
                asked.nprobes(_PROBES).refine_factor(_REFINE) if approximate else asked.bypass_vector_index()
            )
            if where is not None:
                asked = asked.where(where, prefilter=True)
            return list(asked.select([*_SLOT_COLUMNS, "_distance"]).limit(limit).to_list())

        with lance_errors(self._archive.uri, "search"):
            rows = self._of_videos(find, count, videos, finds_all=not approximate)
        done = self._archive.completed_among({row["segment_id"] for row in rows})
        # With several query vectors, LanceDB returns the sum of their distances.
        vectors = 1 if query.ndim == 1 else len(query)
        return [
            Slot(**{name: row[name] for name in _SLOT_COLUMNS}, similarity=1 - row["_distance"] / vectors)
            for row in rows
            if row["segment_id"] in done
        ]

    def hits(self, words: str, count: int, videos: Videos) -> list[TextHit]:
        """Texts that contain the words, best first."""
        from lancedb.query import MatchQuery

        table = self._archive.table("annotations")

        def find(limit: int, where: str | None) -> list[Row]:
            # Plain words, not a query language: no input is a syntax error.
            asked = table.search(MatchQuery(words, "text"), query_type="fts")
            if where is not None:
                asked = asked.where(where, prefilter=True)
            return list(asked.select([*_TEXT_COLUMNS, "_score"]).limit(limit).to_list())

        with lance_errors(self._archive.uri, "search"):
            rows = self._of_videos(find, count, videos, finds_all=True)
        # Leave out orphans of a killed run, which stay until the next run sweeps them.
        done = self._archive.completed_among({row["segment_id"] for row in rows if row["segment_id"]})
        return [
            TextHit(**{name: row[name] for name in _TEXT_COLUMNS}, score=row["_score"])
            for row in rows
            if row["segment_id"] is None or row["segment_id"] in done
        ]

    def with_slots_of(self, hits: Sequence[TextHit], slots: Sequence[Slot], query: np.ndarray) -> list[Slot]:
        """``slots``, and the nearest slots of each text's segment or video, so that a text leads to a moment."""
        there = {slot.segment_id for slot in slots} | {slot.video_id for slot in slots}
        segments = [hit.segment_id for hit in hits if hit.segment_id and hit.segment_id not in there]
        videos = [hit.video_id for hit in hits if not hit.segment_id and hit.video_id not in there]
        more: list[Slot] = []
        if segments:
            limit = _SLOTS_A_TEXT * len(segments)
            near = self._archive.slots.similarities(segments, query, _SLOT_COLUMNS, limit=limit)
            more += [Slot(**row, similarity=similarity) for row, similarity in near]
        if videos:
            more += self.slots(query, _SLOTS_A_TEXT * len(videos), tuple(videos), exact=True)
        return sorted([*slots, *more], key=lambda slot: -(slot.similarity or 0.0))

    def slot_count(self, videos: Videos) -> int:
        """Number of slots, of these videos or in all. For many videos an estimate, by their share."""
        if videos is None or len(videos) <= IDS_PER_FILTER:
            return self._archive.slots.slot_count(videos)
        return round(self._archive.slots.slot_count() * self._share(videos))

    def _of_videos(
        self, find: Callable[[int, str | None], list[Row]], count: int, videos: Videos, *, finds_all: bool
    ) -> list[Row]:
        """The best ``count`` rows of the videos. ``find(limit, condition)`` returns the best rows that match a
        condition.

        For a few videos, their ids are the condition. For 100,000 of them the condition would have 2.8 MB and be parsed
        at each search: instead, rows of all videos are searched, as many as should be enough, and filtered here.
        ``finds_all`` means that ``find`` misses no row; an approximate index, which searches a part of the table, may.
        """
        if videos is None:
            return find(count, None)
        if len(videos) > IDS_PER_FILTER:
            wanted = frozenset(videos)
            limit = math.ceil(_SPARE * count / self._share(videos))
            while limit <= _LOOKED_THROUGH:
                rows = find(limit, None)
                kept = [row for row in rows if row["video_id"] in wanted]
                if len(kept) >= count or (finds_all and len(rows) < limit):
                    return kept[:count]
                if len(rows) < limit:
                    break
                limit *= _MORE
        return find(count, _any_of("video_id", videos))

    def _share(self, videos: Sequence[str]) -> float:
        return min(1.0, len(videos) / max(1, self._archive.count("videos")))


def _any_of(column: str, ids: Iterable[str]) -> str:
    return " OR ".join(f"({part})" for part in is_in(column, ids))
