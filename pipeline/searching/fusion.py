"""Fuse the ranked lists of slots and texts into one list of moments, and join neighbouring slots. Pure, no store.

Reciprocal rank fusion (Cormack et al., 2009) needs no common scale of scores. A moment's score is the sum over the
lists of 1 / (60 + its rank). Texts count half, since a text covers minutes of video and a slot seconds. With that, the
best text still brings its segment among the first ten results when no vector is near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["TEXTS_SHARE", "Moment", "Slot", "TextHit", "fuse", "worth"]

_RANK_OFFSET = 60
TEXTS_SHARE = 0.5
"""What a text counts against a slot of the same rank."""
# Neighbours meet exactly, except for rounding.
_TOUCHING_S = 1e-3


@dataclass(frozen=True)
class Slot:
    """A memory slot as a candidate; ``similarity`` is its cosine with the query, None if it was not compared.

    ``spans`` are the seconds [start, end) that it covers if slots merge what is not adjacent; [start_s, end_s) is then
    their hull. ``parts`` are the cosines with each part of a query of several, by name.
    """

    video_id: str
    segment_id: str
    slot: int
    start_s: float
    end_s: float
    timestamp_s: float
    similarity: float | None = None
    spans: tuple[tuple[float, float], ...] | None = None
    parts: tuple[tuple[str, float], ...] = ()

    @property
    def is_scattered(self) -> bool:
        """Whether it covers several spans."""
        return self.spans is not None and len(self.spans) > 1


@dataclass(frozen=True)
class TextHit:
    """A text that contains words of the query: of a segment, of a span, or of a whole video.

    With ``own_span`` it is about [start_s, end_s) alone, as a subtitle is; else about its segment, or the whole video
    if ``segment_id`` is None.
    """

    video_id: str
    segment_id: str | None
    start_s: float
    end_s: float
    text: str
    score: float
    own_span: bool = False

    def is_in(self, slot: Slot) -> bool:
        """Whether it is about a part of what the slot covers."""
        spans = slot.spans or ((slot.start_s, slot.end_s),)
        return self.video_id == slot.video_id and any(
            self.start_s < end and start < self.end_s for start, end in spans
        )


@dataclass(frozen=True)
class Moment:
    """A span [start_s, end_s) of a video that matches a query.

    ``score`` orders the moments of one search and cannot be compared between searches. ``similarity`` is the cosine of
    the query with the best slot. ``signals`` found the moment: ``vectors``, ``text``. ``slot`` is the best slot, None
    if the moment is the span of a text. ``vector_rank`` and ``text_rank`` are its places in the two lists, from 0.
    """

    video_id: str
    start_s: float
    end_s: float
    score: float
    signals: tuple[str, ...]
    slot: Slot | None = None
    text: str | None = None
    vector_rank: int | None = None
    text_rank: int | None = None

    @property
    def similarity(self) -> float | None:
        """Cosine of the best slot with the query; None without one."""
        return self.slot.similarity if self.slot else None

    @property
    def is_slot(self) -> bool:
        """Whether it is the span of its slot, and not that of a text whose picture the slot is."""
        slot = self.slot
        return slot is not None and (self.start_s, self.end_s) == (slot.start_s, slot.end_s)

    @property
    def spans(self) -> tuple[tuple[float, float], ...]:
        """The seconds [start, end) that were found: several where the slot joins what is not adjacent."""
        if self.is_slot and self.slot is not None and self.slot.is_scattered and self.slot.spans is not None:
            return self.slot.spans
        return ((self.start_s, self.end_s),)


def fuse(slots: Sequence[Slot], texts: Sequence[TextHit], *, floor: float | None = None) -> list[Moment]:
    """Fuse two lists into moments, best first. Both lists are ordered best first, slots without similarity last.

    A slot takes the rank of the best text about it. If that text has a span of its own, the moment is that span, and
    the slot its picture. A neighbouring slot joins a moment if its similarity is closer to the best slot's than to
    ``floor``, the similarity of unrelated slots (by default that of the last slot). A text about none of the slots is
    a moment of its own, and so is a slot of several spans.
    """
    abouts = _Abouts(texts)
    ranked = []
    rank_of_slot = 0
    for slot in slots:
        score, signals = 0.0, []
        vector_rank = None
        if slot.similarity is not None:
            vector_rank = rank_of_slot
            score += worth(vector_rank)
            rank_of_slot += 1
            signals.append("vectors")
        rank, hit = abouts.take(slot) or (0, None)
        if hit is not None:
            score += TEXTS_SHARE * worth(rank)
            signals.append("text")
        elif slot.similarity is None:
            continue
        at: Slot | TextHit = hit if hit is not None and hit.own_span else slot
        text, text_rank = (None, None) if hit is None else (hit.text, rank)
        ranked.append(
            Moment(
                slot.video_id,
                at.start_s,
                at.end_s,
                score,
                tuple(signals),
                slot,
                text,
                vector_rank=vector_rank,
                text_rank=text_rank,
            )
        )
    for rank, hit in abouts.left():
        score = TEXTS_SHARE * worth(rank)
        picture = next((slot for slot in slots if hit.own_span and hit.is_in(slot)), None)
        ranked.append(
            Moment(hit.video_id, hit.start_s, hit.end_s, score, ("text",), picture, hit.text, text_rank=rank)
        )
    ranked.sort(key=lambda moment: (-moment.score, moment.video_id, moment.start_s))
    if floor is None:
        floor = min((slot.similarity for slot in slots if slot.similarity is not None), default=0.0)
    return _joined(ranked, floor)


class _Abouts:
    """Which texts, with their ranks, are about a slot. Each text with a span of its own is taken by one slot."""

    def __init__(self, texts: Sequence[TextHit]) -> None:
        self._texts = texts
        self._by_subject: dict[str, tuple[int, TextHit]] = {}
        self._by_span: defaultdict[str, list[tuple[int, TextHit]]] = defaultdict(list)
        self._taken: set[str] = set()
        self._taken_spans: set[int] = set()
        for rank, hit in enumerate(texts):
            if hit.own_span:
                self._by_span[hit.video_id].append((rank, hit))
            else:
                self._by_subject.setdefault(hit.segment_id or hit.video_id, (rank, hit))

    def take(self, slot: Slot) -> tuple[int, TextHit] | None:
        """The best text about a slot and its rank."""
        found = [self._by_subject[key] for key in (slot.segment_id, slot.video_id) if key in self._by_subject]
        found += [
            (rank, hit)
            for rank, hit in self._by_span.get(slot.video_id, ())
            if rank not in self._taken_spans and hit.is_in(slot)
        ]
        best = min(found, key=lambda pair: pair[0], default=None)
        if best is not None and best[1].own_span:
            self._taken_spans.add(best[0])
        if any(not hit.own_span for _, hit in found):
            self._taken |= {slot.segment_id, slot.video_id}
        return best

    def left(self) -> list[tuple[int, TextHit]]:
        """Texts that no slot has taken."""
        return [
            (rank, hit)
            for rank, hit in enumerate(self._texts)
            if (
                rank not in self._taken_spans
                if hit.own_span
                else (hit.segment_id or hit.video_id) not in self._taken
            )
        ]


def worth(rank: int) -> float:
    """What a place in a list adds to the score, from rank 0 on."""
    return 1 / (_RANK_OFFSET + 1 + rank)


def _joined(ranked: Sequence[Moment], floor: float) -> list[Moment]:
    """Extend each moment over its similar neighbours, and drop those from the list."""
    begins: defaultdict[str, dict[int, Moment]] = defaultdict(dict)
    ends: defaultdict[str, dict[int, Moment]] = defaultdict(dict)
    for moment in ranked:
        if moment.is_slot and moment.slot is not None and not moment.slot.is_scattered:
            begins[moment.video_id][_tick(moment.start_s)] = moment
            ends[moment.video_id][_tick(moment.end_s)] = moment
    used: set[tuple[str, int]] = set()
    joined = []
    for moment in ranked:
        best = moment.slot
        if best is None or not moment.is_slot:
            joined.append(moment)
            continue
        if (best.segment_id, best.slot) in used:
            continue
        used.add((best.segment_id, best.slot))
        start_s, end_s = moment.start_s, moment.end_s
        if best.similarity is not None and not best.is_scattered:
            wanted = (best.similarity + floor) / 2
            while (before := _free(ends[moment.video_id], start_s, wanted, used)) is not None:
                start_s = before.start_s
            while (after := _free(begins[moment.video_id], end_s, wanted, used)) is not None:
                end_s = after.end_s
        joined.append(replace(moment, start_s=start_s, end_s=end_s))
    return joined


def _free(edges: dict[int, Moment], at_s: float, wanted: float, used: set[tuple[str, int]]) -> Moment | None:
    tick = _tick(at_s)
    for near in (tick, tick - 1, tick + 1):
        found = edges.get(near)
        if found is None or found.slot is None or found.slot.similarity is None:
            continue
        key = (found.slot.segment_id, found.slot.slot)
        if key not in used and found.slot.similarity >= wanted and found.end_s > found.start_s:
            used.add(key)
            return found
    return None


def _tick(time_s: float) -> int:
    return round(time_s / _TOUCHING_S)
