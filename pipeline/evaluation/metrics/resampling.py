"""Figures over answers, with confidence intervals by resampling videos (the bootstrap of Efron, 1979).

Answers about one video are not independent of each other, so whole videos are drawn, with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["RESAMPLES", "Figure", "figure_of"]

RESAMPLES = 1000
_BOUNDS = (2.5, 97.5)


@dataclass(frozen=True)
class Figure:
    """A figure with the bounds of its 95 % interval, over ``count`` answers about ``videos`` videos.

    The interval is the figure itself if there is one video.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    videos: int


def figure_of(
    name: str,
    parts: np.ndarray,
    groups: Sequence[str],
    of_sum: Callable[[np.ndarray], float],
    *,
    seed: int,
    strata: Sequence[str] | None = None,
) -> Figure:
    """A figure that is a function of summed ``parts`` [answers, P]; ``groups`` are the answers' videos.

    With ``strata`` (the answers' tasks) it is the mean of the figure over them. Raises ValueError without answers.
    """
    if not len(parts):
        raise ValueError("a figure needs answers")
    kinds = sorted(set(strata)) if strata is not None else [""]
    layer = [kinds.index(kind) for kind in strata] if strata is not None else [0] * len(parts)
    videos = sorted(set(groups))
    place = {video: number for number, video in enumerate(videos)}
    sums = np.zeros((len(videos), len(kinds), parts.shape[1]))
    counts = np.zeros((len(videos), len(kinds)))
    for row, video, kind in zip(parts, groups, layer, strict=True):
        sums[place[video], kind] += row
        counts[place[video], kind] += 1

    def value(weights: np.ndarray) -> float:
        there = weights @ counts
        total = np.tensordot(weights, sums, 1)
        return float(np.mean([of_sum(total[kind]) for kind in range(len(kinds)) if there[kind]]))

    chance = np.random.default_rng(seed)
    own = value(np.ones(len(videos)))
    drawn = [
        value(np.bincount(chance.integers(0, len(videos), len(videos)), minlength=len(videos)).astype(float))
        for _ in range(RESAMPLES if len(videos) > 1 else 0)
    ]
    low, high = np.percentile(drawn, _BOUNDS) if drawn else (own, own)
    return Figure(name, own, float(low), float(high), len(parts), len(videos))
