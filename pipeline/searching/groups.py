"""Results grouped by video: the best videos, each with its best moments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from malmm.pipeline.searching.explanation import explain
from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.searching.query import MAX_K, SearchQuery
from malmm.pipeline.searching.searcher import Found, Searcher

__all__ = ["FoundVideo", "VideoGroup", "best_videos", "grouped_by_video"]

_DEEPER = 4


@dataclass(frozen=True)
class VideoGroup:
    """A video's moments, best first, and how many of it were found in all."""

    video_id: str
    moments: tuple[Moment, ...]
    found: int


def best_videos(search: Callable[[int], Sequence[Moment]], videos: int, *, each: int = 3) -> list[VideoGroup]:
    """The best ``videos`` of a search, each with ``each`` moments at most. A video is as good as its best moment.

    ``search`` returns the moments for k results, best first. Searches deeper until there are enough videos.
    """
    depth, before = max(10, videos), -1
    while True:
        grouped: dict[str, list[Moment]] = {}
        moments = search(depth)
        for moment in moments:
            grouped.setdefault(moment.video_id, []).append(moment)
        if len(grouped) >= videos or depth >= MAX_K or len(moments) == before:
            break
        depth, before = min(MAX_K, depth * _DEEPER), len(moments)
    return [
        VideoGroup(video, tuple(found[:each]), len(found)) for video, found in list(grouped.items())[:videos]
    ]


@dataclass(frozen=True)
class FoundVideo:
    """A video as a result: its best moments, and how many of it were found in all."""

    video_id: str
    uri: str
    moments: tuple[Found, ...]
    found: int


def grouped_by_video(
    searcher: Searcher, query: SearchQuery, *, each: int = 3, explained: bool = False
) -> list[FoundVideo]:
    """The ``query.k`` best videos for a query, each with ``each`` moments at most. Raises as ``Searcher.search``."""
    groups = best_videos(lambda depth: searcher.ranked(replace(query, k=depth)), query.k, each=each)
    moments = [moment for group in groups for moment in group.moments]
    shown = iter(searcher.shown(moments, thumbnails=False))
    threshold = searcher.threshold_of(query) if explained else None
    found = []
    for group in groups:
        own = [next(shown) for _ in group.moments]
        if explained:
            own = [
                replace(one, explanation=explain(moment, threshold))
                for one, moment in zip(own, group.moments, strict=True)
            ]
        found.append(FoundVideo(group.video_id, own[0].uri, tuple(own), group.found))
    return found
