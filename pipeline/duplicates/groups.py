"""Groups of copies, and what to leave out so that each is kept once. Pure functions over runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from malmm.pipeline.duplicates.runs import Run

__all__ = ["LeftOut", "Member", "Span", "grouped", "left_out", "merged"]

Span = tuple[float, float]
# Two runs are about the same passage of a video if they share so much of the shorter one there.
_SAME_PASSAGE = 0.5
# A video counts as covered if less than a slot is left at each end.
_WHOLE = 0.95


@dataclass(frozen=True)
class Member:
    """A passage [start_s, end_s) of a video, by its number."""

    video: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class LeftOut:
    """``spans``, in seconds, of a video that copy kept passages; ``whole`` if they cover nearly all of it.

    ``copy_of`` are the numbers of the videos that keep them.
    """

    video: int
    spans: tuple[Span, ...]
    whole: bool
    copy_of: tuple[int, ...]


def grouped(runs: Sequence[Run]) -> list[tuple[list[Member], list[int]]]:
    """Groups of runs about the same passages: their members and the places of their runs, the longest group first.

    Two runs belong together if in one video they share half of the shorter one. So a compilation does not join what
    it is made of, unless it is itself a copy as a whole. Each group has one member for each passage of a video.
    """
    parent = list(range(len(runs)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    sides = sorted(
        (video, start_s, end_s, place)
        for place, run in enumerate(runs)
        for video, (start_s, end_s) in ((run.first, run.first_span), (run.second, run.second_span))
    )
    going: list[tuple[int, float, float, int]] = []
    for side in sides:
        video, start_s, end_s, place = side
        going = [other for other in going if other[0] == video and other[2] > start_s]
        for _, other_start_s, other_end_s, other in going:
            shared = min(end_s, other_end_s) - start_s
            if shared >= _SAME_PASSAGE * min(end_s - start_s, other_end_s - other_start_s):
                parent[root(place)] = root(other)
        going.append(side)
    places: dict[int, list[int]] = {}
    for place in range(len(runs)):
        places.setdefault(root(place), []).append(place)
    groups = [(_members([runs[place] for place in some]), some) for some in places.values()]
    return sorted(groups, key=lambda group: (-sum(m.end_s - m.start_s for m in group[0]), group[1]))


def _members(runs: Iterable[Run]) -> list[Member]:
    spans: dict[int, list[Span]] = {}
    for run in runs:
        spans.setdefault(run.first, []).append(run.first_span)
        spans.setdefault(run.second, []).append(run.second_span)
    return [Member(video, *span) for video, some in sorted(spans.items()) for span in merged(some)]


def merged(spans: Iterable[Span]) -> list[Span]:
    """The union of spans, as spans that do not touch, in time order."""
    done: list[Span] = []
    for start, end in sorted(spans):
        if done and start <= done[-1][1]:
            done[-1] = (done[-1][0], max(done[-1][1], end))
        else:
            done.append((start, end))
    return done


def left_out(
    runs: Sequence[Run], order: Sequence[int], video_spans: Sequence[Span], *, repeats: bool = False
) -> list[LeftOut]:
    """What to leave out so that of each passage one copy stays: that of the video that comes first in ``order``.

    ``order`` lists the numbers of all videos, and ``video_spans`` is the span of each video by number. A passage is
    left out if a video before its own has it too; that one either keeps it or is itself a copy of a video before it.
    So of each passage something stays, whatever the groups are. With ``repeats`` a passage that comes again within one
    video is kept where it is first.
    """
    rank = {video: place for place, video in enumerate(order)}
    spans: dict[int, list[Span]] = {}
    kept_in: dict[int, set[int]] = {}
    for run in runs:
        if run.is_repeat and not repeats:
            continue
        if rank[run.first] < rank[run.second] or (run.is_repeat and run.first_span < run.second_span):
            video, span, keeper = run.second, run.second_span, run.first
        else:
            video, span, keeper = run.first, run.first_span, run.second
        spans.setdefault(video, []).append(span)
        kept_in.setdefault(video, set()).add(keeper)
    found = []
    for video in order:
        if video in spans:
            start_s, end_s = video_spans[video]
            inside = [(max(start_s, a), min(end_s, b)) for a, b in spans[video]]
            union = tuple(span for span in merged(inside) if span[1] > span[0])
            if not union:
                continue
            seconds = sum(b - a for a, b in union)
            whole = seconds >= _WHOLE * (end_s - start_s)
            keepers = tuple(sorted(kept_in[video], key=rank.__getitem__))
            found.append(LeftOut(video, union, whole, keepers))
    return found
