"""Find scene changes from a video's key frames, and choose where to cut segments.

Encoders put a key frame at a scene cut that they detect, and at fixed distances otherwise. So comparing neighbouring
key frames finds cuts without decoding every frame: exactly in the first case, at most one key frame late in the second.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.files import MediaFile
from malmm.operators.media.frames import TimedFrame, frames_from
from malmm.operators.media.picture import converted

__all__ = ["choose_cuts", "scene_changes"]

# Two pictures of one scene share most of their colours, whatever moves; those of two scenes seldom share half.
_CHANGE = 0.4
_SIDE = 32
_LEVELS = 4


def scene_changes(uri: str, cache: FileCache | None = None) -> list[float]:
    """Times of scene changes, in seconds on the video's clock, ascending. Reads the whole file, decodes key frames.

    A scene changes where the colour histograms of neighbouring key frames have less than 60 % in common. Raises
    MediaError if the file cannot be opened.
    """
    changes: list[float] = []
    before: np.ndarray | None = None
    for item in frames_from(MediaFile(uri, cache), None, keyframes=True):
        if not isinstance(item, TimedFrame):
            continue
        try:
            now = _histogram(item)
        except FFmpegError:
            # A damaged header can give a frame a colour format that cannot be converted.
            continue
        if before is not None and np.abs(now - before).sum() / 2 > _CHANGE:
            changes.append(float(item.tick * item.video.time_base))
        before = now
    return sorted(changes)


def choose_cuts(
    start_s: float, duration_s: float, changes: Iterable[float], min_s: float, max_s: float
) -> list[float]:
    """Times at which to cut [start_s, start_s + duration_s] into parts of ``min_s`` to ``max_s`` seconds.

    Cuts at every scene change that makes the part before it long enough; if no change comes in time, after ``max_s``. A
    video of up to ``max_s`` without a change is one part, and so is one shorter than ``min_s``. Raises ValueError
    unless 0 < ``min_s`` <= ``max_s`` / 2.
    """
    if not 0 < min_s <= max_s / 2:
        raise ValueError(
            f"cannot cut into parts of {min_s} s to {max_s} s: the longest is twice the shortest at least"
        )
    end_s = start_s + duration_s
    wanted = sorted(changes)
    cuts: list[float] = []
    at_s = start_s
    while True:
        first, last = at_s + min_s, min(at_s + max_s, end_s - min_s)
        change = next((time for time in wanted if first <= time <= last), None)
        if change is None:
            if end_s - at_s <= max_s:
                return cuts
            change = last
        cuts.append(change)
        at_s = change


def _histogram(item: TimedFrame) -> np.ndarray:
    """Colour histogram, float64 [64]: shares of the colours, with red, green and blue in four levels each."""
    small = converted(VideoReformatter().reformat, item.frame, width=_SIDE, height=_SIDE, format="rgb24")
    picture = small.to_ndarray()
    levels = picture.reshape(-1, 3).astype(np.int64) * _LEVELS // 256
    codes = (levels[:, 0] * _LEVELS + levels[:, 1]) * _LEVELS + levels[:, 2]
    return np.bincount(codes, minlength=_LEVELS**3) / len(codes)
