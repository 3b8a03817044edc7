"""Candidates of several archives, ranked as if all rows were in one.

Cosines of one retrieval model are comparable, so slots are merged by them. Scores of texts are not, since each archive
has its own frequencies of words: they are computed anew (``text_scores``).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from malmm.pipeline.archive.joined import JoinedArchive, with_same
from malmm.pipeline.archive.members import Member
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.searching.candidates import Candidates, Row, nearness
from malmm.pipeline.searching.fusion import Slot
from malmm.pipeline.searching.text_scores import (
    Statistics,
    TextStatistics,
    pooled,
    scores,
    words_of,
    words_of_each,
)

__all__ = ["SeveralCandidates", "candidates_of", "of_one_model", "of_one_tower"]

# Each archive is first asked for more than its share of the candidates, and for all of them if that is too few.
_SPARE, _FEWEST = 2.0, 20


def of_one_tower(archive: ArchiveReader) -> ArchiveReader:
    """Those of several archives whose vectors are of the first one's retrieval model; others are left out."""
    return with_same(archive, "retrieval model", lambda recipe: recipe.retrieval_fingerprint)


def of_one_model(archive: ArchiveReader) -> ArchiveReader:
    """Those of several archives whose memory is of the first one's model; others are left out."""
    return with_same(archive, "model", lambda recipe: recipe.model_fingerprint)


def candidates_of(archive: ArchiveReader) -> Candidates:
    """Finds candidates in an archive, or in several that are read as one."""
    return SeveralCandidates(archive) if isinstance(archive, JoinedArchive) else Candidates(archive)


class SeveralCandidates(Candidates):
    """Finds candidates in several archives. Every call reads the latest commits."""

    def __init__(self, archive: JoinedArchive) -> None:
        super().__init__(archive)
        self._members = archive.members
        self._statistics: dict[str, TextStatistics] = {
            member.entry.uri: TextStatistics() for member in archive.members.all
        }

    def slots(
        self, query: np.ndarray, count: int, within: Scope, *, exact: bool = False, is_share: bool = False
    ) -> list[Slot]:
        """The slots nearest to unit vectors [V] or [Q, V] in all archives, nearest first."""
        members = self._members.now()
        first = min(count, max(_FEWEST, math.ceil(_SPARE * count / len(members))))
        found: dict[Member, list[Slot]] = {}

        def look(limit: int) -> Callable[[Member], None]:
            def of(member: Member) -> None:
                chosen = _chosen(member, within)
                slots: list[Slot] = []
                if not chosen.is_empty:
                    own, share = Candidates(member.reader), is_share or limit < count
                    slots = own.slots(query, limit, chosen, exact=exact, is_share=share)
                self._members.remember(member, (slot.segment_id for slot in slots))
                found[member] = slots

            return of

        self._members.each(look(first), members)
        if first < count:
            best = sorted((slot for slots in found.values() for slot in slots), key=nearness)
            reached = best[count - 1].similarity if len(best) >= count else None
            # Only an archive whose last slot is among the best may have more of them.
            more = [
                member
                for member, slots in found.items()
                if reached is None or not slots or (slots[-1].similarity or 0.0) >= (reached or 0.0)
            ]
            self._members.each(look(count), more)
        merged = sorted((slot for slots in found.values() for slot in slots), key=nearness)
        return merged[:count]

    def matches(self, words: str, column: str, count: int, within: Scope) -> list[Row]:
        """Rows of ``annotations`` of all archives by the words in one of its columns, best first."""
        asked = words_of(words, column)

        def of(member: Member) -> tuple[list[tuple[Row, list[str]]], Statistics]:
            chosen = _chosen(member, within)
            rows: list[Row] = []
            if not chosen.is_empty:
                rows = Candidates(member.reader).matches(words, column, count, chosen)
            texts = words_of_each([row[column] for row in rows], column)
            held = list(zip(rows, texts, strict=True))
            all_found = chosen.is_all and len(rows) < count
            statistics = self._statistics[member.entry.uri].of(
                member.reader,
                column,
                list(dict.fromkeys(asked)),
                member.elsewhere,
                [text for _, text in held] if all_found else None,
            )
            return held, statistics

        parts = self._members.each(of)
        of_all = pooled([statistics for _, statistics in parts])
        held = [each for of_member, _ in parts for each in of_member]
        scored = scores(asked, [text for _, text in held], of_all)
        rows = [row | {"_score": value} for (row, _), value in zip(held, scored, strict=True)]
        rows.sort(key=lambda row: (-row["_score"], row["annotation_id"]))
        return rows[:count]

    def slot_count(self, within: Scope) -> int:
        """Number of slots, of these videos or in all. For many videos an estimate, by their share."""
        return sum(
            self._members.each(lambda member: Candidates(member.reader).slot_count(_chosen(member, within)))
        )


def _chosen(member: Member, within: Scope) -> Scope:
    """The part of an archive to search: of what is in the scope, that which is read from this archive."""
    videos = within.videos
    own = member.own if videos is None else member.owned(videos)
    return within if own is None else within.within(own)
