"""Runs: stretches of two videos in which pairs of alike slots follow each other at the same pace.

A pair alone says little, since scenes of different videos may look alike. A copy makes a line in the plane of the two
videos' times, of slope 1, or of another slope if it was sped up. Lines are found as heaviest chains of pairs (the
temporal network of Tan et al., 2009, "Scalable detection of partial near-duplicate videos by visual-temporal
consistency"), fitted, and verified: along a copy, what changes in one video changes in the other. So two static scenes
that look the same make no run, however many pairs they have. Pure functions over arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from malmm.pipeline.duplicates.matching import Pairs

__all__ = ["Limits", "Line", "Run", "Slots", "find_runs", "verified"]


@dataclass(frozen=True)
class Slots:
    """The slots of an archive, ordered by video and time.

    ``vectors`` are unit vectors [N, V] of any float type, ``video`` int [N] the number of each slot's video, and
    ``start_s`` and ``end_s`` [N] its span on the video's own clock.
    """

    vectors: np.ndarray
    video: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    @property
    def middle_s(self) -> np.ndarray:
        """The middle of each slot's span."""
        return (self.start_s + self.end_s) / 2

    @property
    def length_s(self) -> np.ndarray:
        """The length of each slot's span."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Limits:
    """What counts as a copy.

    ``similar`` is the least cosine of two slots, ``score`` the least score of a run, ``implied`` that of one that
    follows from two others, ``pairs`` the fewest slots of a run, ``least_s`` its least length in seconds, and ``rate``
    the largest change of speed (0.15 is 15 per cent).
    """

    similar: float = 0.5
    score: float = 0.65
    implied: float = 0.4
    pairs: int = 3
    least_s: float = 10.0
    rate: float = 0.15


@dataclass(frozen=True)
class Line:
    """Maps a time in one video to the same moment in another: ``rate`` times it, plus ``offset_s``."""

    rate: float
    offset_s: float

    def at(self, time_s: float) -> float:
        """The second of the other video."""
        return self.rate * time_s + self.offset_s

    @property
    def turned(self) -> Line:
        """The inverse: from the second video's times to the first's."""
        return Line(1 / self.rate, -self.offset_s / self.rate)


@dataclass(frozen=True)
class Run:
    """A stretch [start_s, end_s) of video ``first`` that is a copy of one of video ``second``.

    ``rate`` is how many seconds of the second pass in one of the first. ``similarity`` is the mean cosine of its slots
    and ``moving`` the correlation of their changes. Within one video, ``first`` is ``second``: a passage that comes
    again. ``via`` is the video from which it follows (``implied.with_implied``); None for a run that was seen itself.
    """

    first: int
    second: int
    first_span: tuple[float, float]
    second_span: tuple[float, float]
    rate: float
    similarity: float
    moving: float
    via: int | None = None

    @property
    def is_repeat(self) -> bool:
        """Whether both stretches are in one video: a passage that occurs twice."""
        return self.first == self.second

    @property
    def score(self) -> float:
        """Confidence, up to 1: the geometric mean of likeness and of the correlation of changes."""
        return math.sqrt(max(0.0, self.similarity) * max(0.0, self.moving))

    @property
    def turned(self) -> Run:
        """The same with its sides changed."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            first_span=self.second_span,
            second_span=self.first_span,
            rate=1 / self.rate,
        )

    @property
    def length_s(self) -> float:
        """Seconds of the longer side."""
        return max(self.first_span[1] - self.first_span[0], self.second_span[1] - self.second_span[0])


# How far a line is shifted to find where it fits: pairs within scenes do not tell. In so many steps.
_REACH_S, _SHIFTS = 12.0, 49
# The fewest mutually nearest pairs that are looked at: the slots between them decide.
_CHAIN = 2
# A chain goes on over so many slots without a pair, as in static scenes.
_GAP_SLOTS, _GAP_S = 10, 60.0
# A run goes on beyond its ends over slots that are unlike for so long, if alike ones follow.
_UNLIKE_S = 15.0
# Chance of speed as the fit knows it beforehand: short runs do not tell it.
_SPREAD = 0.05


def find_runs(slots: Slots, pairs: Pairs, limits: Limits) -> list[Run]:
    """All runs, ordered by their videos and times. ``pairs`` are those of ``matching.mutual_pairs``."""
    if not len(pairs):
        return []
    typical_s = float(np.median(slots.length_s))
    gap_s = max(_GAP_S, _GAP_SLOTS * typical_s)
    first, second = slots.video[pairs.first], slots.video[pairs.second]
    x, y = slots.middle_s[pairs.first], slots.middle_s[pairs.second]
    key = first.astype(np.int64) * (int(slots.video.max()) + 1) + second
    width_s = 4 * typical_s + 2 * limits.rate * gap_s
    kept = supported(key, x, y, _CHAIN, gap_s, width_s)
    pairs, key = pairs.of(kept), key[kept]
    order = np.lexsort((pairs.second, pairs.first, key))
    pairs, key = pairs.of(order), key[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    first_of = np.searchsorted(slots.video, np.arange(int(slots.video.max()) + 2))
    found: list[Run] = []
    for begin, end in zip(starts, [*starts[1:], len(key)], strict=True):
        found += _runs_of_two(slots, pairs.of(np.arange(begin, end)), limits, gap_s, first_of)
    return found


def verified(run: Run, slots: Slots, limits: Limits) -> Run | None:
    """A run that follows from others, as the slots have it; None where its score is below ``limits.implied``."""
    first, second = (
        slice(*np.searchsorted(slots.video, (number, number + 1)).tolist())
        for number in (run.first, run.second)
    )
    line = Line(run.rate, run.second_span[0] - run.rate * run.first_span[0])
    if not max(1 / line.rate, line.rate) <= 1 + limits.rate:
        return None
    found = _verified(slots, (first, second), line, run.first_span, replace(limits, score=limits.implied))
    return None if found is None else replace(found, via=run.via)


def supported(
    key: np.ndarray, x: np.ndarray, y: np.ndarray, least: int, gap_s: float, width_s: float
) -> np.ndarray:
    """Mask bool [P] of the pairs that may be of a chain of ``least`` pairs: others of about their offset are near.

    ``key`` int [P] says of which two videos a pair is, ``x`` and ``y`` [P] are its times. Offsets are put into bins
    of ``width_s``, twice, half a bin apart. Leaves out nearly all pairs that are similar by chance, at the cost of
    sorting.
    """
    good = np.zeros(len(key), bool)
    for phase in (0.0, 0.5):
        place = np.floor((y - x) / width_s + phase)
        order = np.lexsort((x, place, key))
        breaks = (
            (np.diff(key[order], prepend=-1) != 0)
            | (np.diff(place[order], prepend=np.inf) != 0)
            | (np.diff(x[order], prepend=-np.inf) > gap_s)
        )
        chain = np.cumsum(breaks) - 1
        good[order] |= np.bincount(chain)[chain] >= least
    return good


def _runs_of_two(
    slots: Slots, pairs: Pairs, limits: Limits, gap_s: float, first_of: np.ndarray
) -> Iterator[Run]:
    """The runs of one pair of videos, the heaviest first."""
    x, y = slots.middle_s[pairs.first], slots.middle_s[pairs.second]
    slack = (slots.length_s[pairs.first] + slots.length_s[pairs.second]) / 2
    numbers = (int(slots.video[pairs.first[0]]), int(slots.video[pairs.second[0]]))
    first, second = (slice(first_of[number], first_of[number + 1]) for number in numbers)
    free = np.ones(len(pairs), bool)
    found: list[Run] = []
    while free.sum() >= _CHAIN:
        there = np.flatnonzero(free)
        chain = there[
            heaviest_chain(x[there], y[there], slack[there], pairs.similarity[there], gap_s, limits.rate)
        ]
        if len(chain) < _CHAIN:
            break
        free[chain] = False
        line, inliers = fitted_line(x[chain], y[chain], slack[chain], limits.rate)
        if inliers.sum() < _CHAIN:
            continue
        span = (float(x[chain[inliers]].min()), float(x[chain[inliers]].max()))
        run = _verified(slots, (first, second), line, span, limits)
        if run is not None and not any(_overlap(run, other) for other in found):
            found.append(run)
            yield run


def heaviest_chain(
    x: np.ndarray, y: np.ndarray, slack: np.ndarray, weight: np.ndarray, gap_s: float, rate: float
) -> np.ndarray:
    """Places of the heaviest chain of points that go on in both times at about the same pace, in time order.

    From one point to the next both times grow, by ``gap_s`` at most, and by the same amount but for the points'
    ``slack`` and a share ``rate``. A point's weight counts once.
    """
    order = np.lexsort((y, x))
    x, y, slack, weight = x[order], y[order], slack[order], weight[order]
    best, before = weight.astype(float), np.full(len(x), -1)
    for point in range(1, len(x)):
        begin = int(np.searchsorted(x, x[point] - gap_s))
        dx, dy = x[point] - x[begin:point], y[point] - y[begin:point]
        goes_on = (dx > 0) & (dy > 0) & (dy <= gap_s)
        goes_on &= np.abs(dy - dx) <= slack[point] + slack[begin:point] + rate * np.maximum(dx, dy)
        if goes_on.any():
            reached = np.where(goes_on, best[begin:point], -np.inf)
            last = int(reached.argmax())
            best[point] += reached[last]
            before[point] = begin + last
    place, chain = int(best.argmax()), []
    while place >= 0:
        chain.append(place)
        place = int(before[place])
    return order[chain[::-1]]


def fitted_line(x: np.ndarray, y: np.ndarray, slack: np.ndarray, rate: float) -> tuple[Line, np.ndarray]:
    """The line from x to y through points, and a mask of the points within their ``slack`` of it.

    Least squares that hold the line's rate near 1 where points are few or close together, and always within ``rate``.
    """
    inliers = np.ones(len(x), bool)
    slope, offset = 1.0, 0.0
    for _ in range(3):
        u, v, sure = x[inliers], y[inliers] - x[inliers], 1 / slack[inliers] ** 2
        middle, height = np.average(u, weights=sure), np.average(v, weights=sure)
        more = (sure * (u - middle) * (v - height)).sum() / (
            (sure * (u - middle) ** 2).sum() + 1 / _SPREAD**2
        )
        slope = float(np.clip(1 + more, 1 / (1 + rate), 1 + rate))
        offset = float(height - (slope - 1) * middle)
        now = np.abs(y - slope * x - offset) <= slack
        if now.sum() < 2 or (now == inliers).all():
            inliers = now
            break
        inliers = now
    return Line(slope, offset), inliers


def _verified(
    slots: Slots, sides: tuple[slice, slice], line: Line, span: tuple[float, float], limits: Limits
) -> Run | None:
    """The run along a line of two videos, as far as slots are alike; None where it is no copy.

    ``sides`` are the videos' slots, and ``span`` the seconds of the first between which alike pairs were found.
    Compares at the slots of the side that has more of them there: a short copy has shorter slots than what it is of.
    """
    first, second = sides
    middle_s = slots.middle_s
    there = tuple(line.at(time) for time in span)
    counts = [
        np.count_nonzero((middle_s[side] >= begin_s) & (middle_s[side] <= end_s))
        for side, (begin_s, end_s) in ((first, span), (second, there))
    ]
    if counts[1] > counts[0]:
        run = _along(slots, second, first, line.turned, (there[0], there[1]), limits)
        return run.turned if run is not None else None
    return _along(slots, first, second, line, span, limits)


def _along(
    slots: Slots, fine: slice, coarse: slice, line: Line, span: tuple[float, float], limits: Limits
) -> Run | None:
    times = slots.middle_s[fine]
    inside = (times >= span[0]) & (times <= span[1])
    if not inside.any():
        return None
    reach_s = max(_REACH_S, 2 * float(slots.length_s[coarse].mean() + slots.length_s[fine].mean()))
    line = _shifted(slots, fine, coarse, line, inside, reach_s)
    places, other = _matched(slots, fine, coarse, line)
    inner = np.flatnonzero(inside[places])
    if not len(inner):
        return None
    vectors_PV = np.asarray(slots.vectors[fine.start + places], np.float32)
    others_PV = np.asarray(slots.vectors[coarse.start + other], np.float32)
    similarity = np.einsum("pv,pv->p", vectors_PV, others_PV)
    begin, end = grown(similarity >= limits.similar, times[places], int(inner[0]), int(inner[-1]) + 1)
    kept = slice(begin, end)
    if min(end - begin, len(np.unique(other[kept]))) < limits.pairs:
        return None
    # The other side may begin later or end sooner than a slot that is partly alike.
    turned = line.turned
    from_s = max(float(slots.start_s[fine][places[begin]]), turned.at(float(slots.start_s[coarse][0])))
    to_s = min(float(slots.end_s[fine][places[end - 1]]), turned.at(float(slots.end_s[coarse][-1])))
    run = Run(
        first=int(slots.video[fine.start]),
        second=int(slots.video[coarse.start]),
        first_span=(from_s, to_s),
        second_span=(line.at(from_s), line.at(to_s)),
        rate=line.rate,
        similarity=float(similarity[kept].mean()),
        moving=correlation(vectors_PV[kept], others_PV[kept]),
    )
    if run.score < limits.score or run.length_s < limits.least_s:
        return None
    # A passage that overlaps its own repeat is one that goes round and round.
    return None if run.is_repeat and _shared(run.first_span, run.second_span) > 0 else run


def _matched(slots: Slots, fine: slice, coarse: slice, line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Places of the slots of one side whose middle the other side has too, and the places of the slots that have it."""
    there = line.rate * slots.middle_s[fine] + line.offset_s
    other = np.searchsorted(slots.start_s[coarse], there, side="right") - 1
    covered = (other >= 0) & (there < slots.end_s[coarse][np.maximum(other, 0)])
    return np.flatnonzero(covered), other[covered]


def _shifted(
    slots: Slots, fine: slice, coarse: slice, line: Line, inside: np.ndarray, reach_s: float
) -> Line:
    """The line, shifted by up to ``reach_s`` to where the slots ``inside`` are most alike to what they meet."""
    best, kept = -np.inf, line
    for shift_s in sorted(np.linspace(-reach_s, reach_s, _SHIFTS).tolist(), key=abs):
        moved = Line(line.rate, line.offset_s + shift_s)
        places, other = _matched(slots, fine, coarse, moved)
        there = inside[places]
        vectors_PV = np.asarray(slots.vectors[fine.start + places[there]], np.float32)
        others_PV = np.asarray(slots.vectors[coarse.start + other[there]], np.float32)
        alike = float((vectors_PV * others_PV).sum())
        if alike > best + 1e-6:
            best, kept = alike, moved
    return kept


def grown(alike: np.ndarray, times: np.ndarray, begin: int, end: int) -> tuple[int, int]:
    """[begin, end) without unlike ends, and with what goes on on both sides of it.

    ``alike`` bool [P] says of slots at ``times`` [P] whether they are alike. Empty where none within is.
    """
    places = np.flatnonzero(alike)
    inside = places[(places >= begin) & (places < end)]
    if not len(inside):
        return begin, begin
    first, last = np.searchsorted(places, (inside[0], inside[-1]))
    far = np.diff(times[places]) > _UNLIKE_S
    before, after = np.flatnonzero(far[:first]), np.flatnonzero(far[last:])
    first = before[-1] + 1 if len(before) else 0
    last = last + after[0] if len(after) else len(places) - 1
    return int(places[first]), int(places[last]) + 1


def correlation(vectors_PV: np.ndarray, others_PV: np.ndarray) -> float:
    """Correlation of what changes along two sequences of vectors [P, V]: 1 where they change alike, 0 by chance."""
    a_PV, b_PV = vectors_PV - vectors_PV.mean(0), others_PV - others_PV.mean(0)
    size = float(np.sqrt((a_PV**2).sum() * (b_PV**2).sum()))
    return float((a_PV * b_PV).sum()) / size if size > 1e-9 else 0.0


def _shared(span: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(span[1], other[1]) - max(span[0], other[0]))


def _overlap(run: Run, other: Run) -> bool:
    """Whether two runs of the same videos share half of the shorter one on both sides."""
    return all(
        _shared(span, theirs) > 0.5 * min(span[1] - span[0], theirs[1] - theirs[0])
        for span, theirs in (
            (run.first_span, other.first_span),
            (run.second_span, other.second_span),
        )
    )
