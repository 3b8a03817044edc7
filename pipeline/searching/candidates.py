"""Candidates for a query: memory slots by vector search, and texts by full-text search."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lance.query import MatchQuery

from malmm.pipeline.archive import vector_index
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import IDS_PER_FILTER, is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.scope import Part, Scope, Segments, Videos
from malmm.pipeline.archive.table_reader import read_columns
from malmm.pipeline.archive.text_grams import GRAMS_COLUMN, QueryGrams
from malmm.pipeline.schema.tables import GIVEN_TASKS
from malmm.pipeline.searching.fusion import Slot, TextHit

__all__ = ["Candidates", "Row", "nearness"]

_SLOTS_A_TEXT = 5
# Options of the approximate index, which keeps a byte a number: few candidates more than wanted suffice.
_REFINE = 2
_SLOT_COLUMNS = ["video_id", "segment_id", "slot", "start_s", "end_s", "timestamp_s", "spans"]
_TEXT_COLUMNS = ["video_id", "segment_id", "start_s", "end_s", "text"]
# Search for rows of many videos: the most rows to search, the factor from step to step, and the spare of the first
# step.
_LOOKED_THROUGH, _MORE, _SPARE = 20_000, 4, 1.5

Row = dict[str, Any]


class Candidates:
    """Finds candidates in one archive. Every call reads the latest commit."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive

    def slots(
        self, query: np.ndarray, count: int, within: Scope, *, exact: bool = False, is_share: bool = False
    ) -> list[Slot]:
        """The slots of a scope nearest to unit vectors [V] or [Q, V], nearest first.

        With ``is_share`` these are part of what is wanted of several archives, so that those farther away matter less.
        """
        tables = self._archive.tables
        dataset = tables.dataset("memories")
        probes_of = vector_index.probes_for_a_share_of if is_share else vector_index.probes_of
        probes = None if exact else tables.of_version("memories", dataset, probes_of)
        approximate = probes is not None
        nearest: dict[str, Any] = {"column": "vectors", "q": query.astype(np.float32), "metric": "cosine"}
        # docs/retrieval.md has the measurements.
        nearest |= {"nprobes": probes, "refine_factor": _REFINE} if approximate else {"use_index": False}

        def find(limit: int, where: str | None) -> list[Row]:
            found = read_columns(
                dataset,
                [*_SLOT_COLUMNS, "_distance"],
                nearest={**nearest, "k": limit},
                filter=where,
                prefilter=True,
            )
            return list(found.to_pylist())

        with lance_errors(self._archive.uri, "search"):
            rows = self._within(find, count, within, finds_all=not approximate)
        done = self._archive.completed_among({row["segment_id"] for row in rows})
        # With several query vectors, LanceDB returns the sum of their distances.
        vectors = 1 if query.ndim == 1 else len(query)
        found = [_slot(row, 1 - row["_distance"] / vectors) for row in rows if row["segment_id"] in done]
        return sorted(found, key=nearness)

    def hits(self, words: str, count: int, within: Scope) -> list[TextHit]:
        """Texts that contain the words and may be about moments of a scope, best first.

        Texts in other languages than English are found by grams too (``archive.text_grams``). They come after those
        found by English words, and before them where the query is not English.
        """
        grams = QueryGrams.of(words)
        rows = self.matches(words, "text", count, within)
        if grams.wanted:
            found = self.matches(grams.wanted, GRAMS_COLUMN, count, within)
            more = [row for row in found if grams.are_in(row[GRAMS_COLUMN])]
            rows = _without_repeats(more, rows) if grams.is_first else _without_repeats(rows, more)
            rows = rows[:count]
        # Leave out orphans of a killed run, which stay until the next run sweeps them.
        done = self._archive.completed_among({row["segment_id"] for row in rows if row["segment_id"]})
        return [
            TextHit(
                **{name: row[name] for name in _TEXT_COLUMNS},
                score=row["_score"],
                own_span=row["task"] in GIVEN_TASKS,
            )
            for row in rows
            if row["segment_id"] is None or row["segment_id"] in done
        ]

    def matches(self, words: str, column: str, count: int, within: Scope) -> list[Row]:
        """Rows of ``annotations`` by the words in one of its columns, best first, with ``_score``.

        None in an archive that does not have the column yet.
        """
        dataset = self._archive.tables.dataset("annotations")
        if column not in dataset.schema.names:
            return []
        own = [] if column == "text" else [column]
        columns = [*_TEXT_COLUMNS, "task", "annotation_id", "prompt_version", "_score", *own]
        # Plain words, not a query language: no input is a syntax error.
        asked = MatchQuery(words, column)

        def find(limit: int, where: str | None) -> list[Row]:
            found = dataset.to_table(
                columns=columns, full_text_query=asked, filter=where, prefilter=True, limit=limit
            )
            return list(found.to_pylist())

        with lance_errors(self._archive.uri, "search"):
            rows = self._within(find, count, within, finds_all=True, texts=True)
        return sorted(rows, key=lambda row: (-row["_score"], row["annotation_id"]))

    def with_slots_of(
        self, hits: Sequence[TextHit], slots: Sequence[Slot], query: np.ndarray, within: Scope
    ) -> list[Slot]:
        """``slots``, and the nearest slots of each text's segment or video, so that a text leads to a moment.

        A text with a span of its own gets the slots at that span.
        """
        there = {slot.segment_id for slot in slots} | {slot.video_id for slot in slots}
        others = [hit for hit in hits if not hit.own_span]
        segments = [hit.segment_id for hit in others if hit.segment_id and hit.segment_id not in there]
        videos = [hit.video_id for hit in others if not hit.segment_id and hit.video_id not in there]
        more = self.slots_at([hit for hit in hits if not any(map(hit.is_in, slots))], within)
        if segments:
            limit = _SLOTS_A_TEXT * len(segments)
            read = sys.maxsize if within.has_spans else limit
            near = self._archive.slots.similarities(segments, query, _SLOT_COLUMNS, limit=read)
            more += [_slot(row, similarity) for row, similarity in near if within.holds(row)][:limit]
        if videos:
            more += self.slots(query, _SLOTS_A_TEXT * len(videos), within.within(videos), exact=True)
        return sorted([*slots, *more], key=nearness)

    def slots_at(self, hits: Sequence[TextHit], within: Scope) -> list[Slot]:
        """The slots at those texts that have a span of their own, not compared with any query.

        A slot's segment and video are in the scope; its span may be longer than what is.
        """
        hits = [hit for hit in hits if hit.own_span]
        if not hits:
            return []
        segments = self._archive.tables.rows(
            "segments",
            is_in("video_id", {hit.video_id for hit in hits}),
            ["segment_id", "video_id", "start_s", "end_s"],
        ).to_pylist()
        ids = [
            row["segment_id"]
            for row in segments
            if any(
                hit.video_id == row["video_id"] and hit.start_s < row["end_s"] and row["start_s"] < hit.end_s
                for hit in hits
            )
        ]
        found = [_slot(row, None) for row in self._archive.memory_rows(ids, _SLOT_COLUMNS).to_pylist()]
        return [
            slot for slot in found if within.may_hold(vars(slot)) and any(hit.is_in(slot) for hit in hits)
        ]

    def slot_count(self, within: Scope) -> int:
        """Number of slots of a scope. An estimate, by the share of its ids, where it has very many."""
        if within.is_all:
            return self._archive.slots.slot_count()
        counted = self._archive.count("memories", within.sql(at_most=IDS_PER_FILTER))
        return round(counted * self._share(within.large(IDS_PER_FILTER)))

    def _within(
        self,
        find: Callable[[int, str | None], list[Row]],
        count: int,
        within: Scope,
        *,
        finds_all: bool,
        texts: bool = False,
    ) -> list[Row]:
        """The best ``count`` rows of a scope. ``find(limit, condition)`` returns the best rows that match a condition.

        For a few ids, they are the condition. For 100,000 of them the condition would have 2.8 MB and be parsed at each
        search: instead, rows of all videos are searched, as many as should be enough, and filtered here. ``finds_all``
        means that ``find`` misses no row; an approximate index, which searches a part of the table, may.
        """
        large = within.large(IDS_PER_FILTER)
        if large:
            small = within.sql(texts=texts, at_most=IDS_PER_FILTER)
            limit = math.ceil(_SPARE * count / self._share(large))
            while limit <= _LOOKED_THROUGH:
                rows = find(limit, small)
                kept = [
                    row
                    for row in rows
                    if all(part.may_hold(row) if texts else part.holds(row) for part in large)
                ]
                if len(kept) >= count or (finds_all and len(rows) < limit):
                    return kept[:count]
                if len(rows) < limit:
                    break
                limit *= _MORE
        return find(count, within.sql(texts=texts))

    def _share(self, parts: Sequence[Part]) -> float:
        """The share of all rows that parts with very many ids leave, at a guess; above 0."""
        share = 1.0
        for part in parts:
            table = "segments" if isinstance(part, Segments) else "videos"
            own = part.size / max(1, self._archive.count(table))
            if isinstance(part, Segments) and part.others:
                own = 1 - own
            share = min(share, own if isinstance(part, (Segments, Videos)) else 0.5)
        return max(share, 1e-4)


def nearness(slot: Slot) -> tuple[float, str, float, int]:
    """Orders slots by similarity, and those that are equally similar always alike."""
    return -(slot.similarity or 0.0), slot.video_id, slot.start_s, slot.slot


def _without_repeats(first: list[Row], then: list[Row]) -> list[Row]:
    there = {row["annotation_id"] for row in first}
    return [*first, *(row for row in then if row["annotation_id"] not in there)]


def _slot(row: Row, similarity: float | None) -> Slot:
    spans = row.get("spans")
    return Slot(
        **{name: row[name] for name in _SLOT_COLUMNS if name != "spans"},
        similarity=similarity,
        spans=None if spans is None else tuple((span["start_s"], span["end_s"]) for span in spans),
    )
