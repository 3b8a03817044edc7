"""Runs that follow from two others: what is copied from one video into two is a copy between those two.

A short piece may resemble a long copy enough to be found, and another short piece not. Where both are found in one
video, the lines of the two runs, one after the other, give the line between them. Along it less evidence suffices.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from malmm.pipeline.duplicates.runs import Run

__all__ = ["with_implied"]

# Rounds of joining: in each, a chain of copies of copies becomes half as long.
_ROUNDS = 4
# So often a pair of videos is looked at in vain, from the best ways on: among many copies there are very many ways.
_TRIES = 16
# Two runs are about the same passage of a video if they share so much of the shorter one there, as in groups.
_SAME = 0.5

_Span = tuple[float, float]


def with_implied(runs: Sequence[Run], verified: Callable[[Run], Run | None]) -> list[Run]:
    """The runs, and those that follow from two of them about the same passage.

    ``verified`` returns such a run as the slots have it, or None where they speak against it. ``via`` names the video
    that it follows from. There is none where two videos have a run already, nor within one video. Ordered by videos and
    times.
    """
    known: dict[tuple[int, int], list[Run]] = defaultdict(list)
    for run in runs:
        known[run.first, run.second].append(run)
        known[run.second, run.first].append(run.turned)
    fresh = [run for run in runs if not run.is_repeat]
    made: list[Run] = []
    in_vain: Counter[frozenset[int]] = Counter()
    for _ in range(_ROUNDS):
        found = []
        for one, other in _meeting([*fresh, *made]):
            if one.second == other.second:
                continue
            joined = _joined(one, other)
            pair = frozenset((joined.first, joined.second))
            if in_vain[pair] >= _TRIES or any(
                _same(joined, each) for each in known[joined.first, joined.second]
            ):
                continue
            copy = verified(joined)
            if copy is None:
                in_vain[pair] += 1
                continue
            known[copy.first, copy.second].append(copy)
            known[copy.second, copy.first].append(copy.turned)
            found.append(copy if copy.first < copy.second else copy.turned)
        if not found:
            break
        made += found
    return sorted([*runs, *made], key=lambda run: (run.first, run.second, run.first_span, run.second_span))


def _meeting(runs: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Pairs of runs about the same passage of a video, turned so that it is the first of both; the best pairs first."""
    sides: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        sides[run.first].append(run)
        sides[run.second].append(run.turned)
    pairs = []
    for some in sides.values():
        going: list[Run] = []
        for run in sorted(some, key=lambda run: run.first_span):
            going = [other for other in going if other.first_span[1] > run.first_span[0]]
            pairs += [(other, run) for other in going if _alike(other.first_span, run.first_span)]
            going.append(run)
    return iter(sorted(pairs, key=lambda pair: -min(pair[0].score, pair[1].score)))


def _joined(one: Run, other: Run) -> Run:
    """The run between the second videos of both, over the seconds of their first that both have.

    It has the lower ``similarity`` and ``moving`` of the two.
    """
    shared = (max(one.first_span[0], other.first_span[0]), min(one.first_span[1], other.first_span[1]))
    return replace(
        one,
        first=one.second,
        second=other.second,
        first_span=_there(one, shared),
        second_span=_there(other, shared),
        rate=other.rate / one.rate,
        similarity=min(one.similarity, other.similarity),
        moving=min(one.moving, other.moving),
        via=one.first,
    )


def _there(run: Run, span: _Span) -> _Span:
    """Where seconds of a run's first video are in the second."""
    begin_s, end_s = (run.second_span[0] + run.rate * (at_s - run.first_span[0]) for at_s in span)
    return begin_s, end_s


def _same(run: Run, other: Run) -> bool:
    return _alike(run.first_span, other.first_span) and _alike(run.second_span, other.second_span)


def _alike(span: _Span, other: _Span) -> bool:
    shared_s = min(span[1], other[1]) - max(span[0], other[0])
    return shared_s >= _SAME * min(span[1] - span[0], other[1] - other[0])
