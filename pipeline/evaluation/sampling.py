"""Which frames of a video are watched, as the authors' data sets choose them.

Frames are numbered from 0 at ``FRAME_RATE`` a second. Source: boheumd/MA-LMM, ``lavis/datasets/datasets``, the classes
for evaluation.
"""

from __future__ import annotations

import numpy as np

from malmm.pipeline.evaluation.questions import FRAME_RATE

__all__ = ["evenly", "evenly_cut", "windows", "within"]


def evenly(first: int, last: int, count: int) -> tuple[int, ...]:
    """``count`` frames from ``first`` to ``last``, evenly spread and rounded to the nearest (halves to even).

    A short video has frames more than once.
    """
    return tuple(np.rint(np.linspace(first, last, count)).astype(int).tolist())


def evenly_cut(start_s: float, end_s: float, count: int) -> tuple[int, ...]:
    """``count`` frames from ``start_s`` to ``end_s``, evenly spread and rounded down, as for YouCook2."""
    return tuple(np.linspace(start_s * FRAME_RATE, end_s * FRAME_RATE, count, dtype=int).tolist())


def windows(duration_s: int, window_s: int, stride_s: int) -> list[int]:
    """Starts in seconds of the windows of a video: 0, and every stride at which a whole window is left."""
    return [0, *range(stride_s, duration_s - window_s + 1, stride_s)]


def within(start_s: int, window_s: int, duration_s: int, frames: int, count: int) -> tuple[int, ...]:
    """``count`` frames of the window that begins at ``start_s``, of a video of ``frames`` frames.

    The last one lies a second before the window's end, or at the end of the video.
    """
    end_s = min(start_s + window_s - 1, duration_s)
    return evenly(start_s * FRAME_RATE, min(end_s * FRAME_RATE, frames - 1), count)
