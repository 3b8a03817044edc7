"""Choose the frames to sample, and cut a video into spans.

A segment [start_s, end_s) is divided into cells of 1/fps seconds, anchored at start_s. The first frame whose time falls
into a cell is that cell's sample; a cell without a frame has none. So every sampled frame is a frame of the file, is
sampled once, and keeps its own time.

Times are compared as rational numbers in the file's own ticks: in floating point, a frame of a 29.97 fps video on the
boundary of two cells could fall into either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Cells", "exact_rate", "exact_seconds", "plan_spans", "sample_ticks"]

SNAP_S = Fraction(1, 1_000_000)
MAX_RATE_DENOMINATOR = 100_000


def exact_seconds(seconds: float, time_base: Fraction) -> Fraction:
    """The rational number that a float in seconds stands for.

    A float within a microsecond of a tick is that tick (a third of a second has no exact float). Any other is taken as
    its decimal representation.
    """
    exact = Fraction(repr(float(seconds)))
    tick = round(exact / time_base) * time_base
    return tick if abs(tick - exact) < SNAP_S else exact


def exact_rate(fps: float) -> Fraction:
    """The rational number that a rate stands for: 0.3 is 3/10 and 23.976023976 is 24000/1001."""
    if fps < 1:
        return 1 / exact_rate(1 / fps)
    return Fraction(fps).limit_denominator(MAX_RATE_DENOMINATOR)


@dataclass(frozen=True)
class Cells:
    """The cells of one segment, in the ticks of a stream (``time_base`` seconds each).

    The last segment of a video includes its end and one more cell: headers round the duration, and the last frame must
    not be lost.
    """

    start: Fraction
    end: Fraction
    fps: Fraction
    time_base: Fraction
    is_last: bool

    @classmethod
    def of(cls, start_s: float, end_s: float, fps: float, time_base: Fraction, *, is_last: bool) -> Cells:
        """The cells of [start_s, end_s) at fps sampled frames a second."""
        return cls(
            exact_seconds(start_s, time_base),
            exact_seconds(end_s, time_base),
            exact_rate(fps),
            time_base,
            is_last,
        )

    @property
    def count(self) -> int:
        """Number of cells, and so the largest number of sampled frames."""
        return math.ceil((self.end - self.start) * self.fps) + (1 if self.is_last else 0)

    def cell(self, tick: int) -> int | None:
        """The cell of a frame at this tick; None for a frame before or after the segment."""
        time = tick * self.time_base
        if time < self.start or self.is_past(tick):
            return None
        return math.floor((time - self.start) * self.fps)

    def is_past(self, tick: int) -> bool:
        """Whether a frame at this tick comes after the segment."""
        time = tick * self.time_base
        if self.is_last:
            return math.floor((time - self.start) * self.fps) >= self.count
        return time >= self.end


def sample_ticks(ticks: Iterable[int], cells: Cells) -> list[int]:
    """Positions in ``ticks`` (ascending) of the frames to sample."""
    chosen: list[int] = []
    previous = -1
    for position, tick in enumerate(ticks):
        cell = cells.cell(tick)
        if cell is not None and cell > previous:
            chosen.append(position)
            previous = cell
    return chosen


def plan_spans(start_s: float, duration_s: float, segment_s: float, fps: float) -> list[tuple[float, float]]:
    """Cut [start_s, start_s + duration_s] into spans of segment_s seconds.

    A tail shorter than one sampling period is joined to the span before it. There is always at least one span; for a
    video of length 0 it is empty. Raises ValueError for invalid numbers.
    """
    if not (math.isfinite(start_s) and math.isfinite(duration_s) and duration_s >= 0):
        raise ValueError(f"cannot plan a video that starts at {start_s} s and lasts {duration_s} s")
    if not (segment_s > 0 and fps > 0):
        raise ValueError(f"cannot plan segments of {segment_s} s at {fps} frames a second")
    start, duration, segment = (Fraction(repr(float(value))) for value in (start_s, duration_s, segment_s))
    count, tail = divmod(duration, segment)
    if tail >= 1 / exact_rate(fps) or count == 0:
        count += 1
    bounds = [float(start + index * segment) for index in range(count)]
    return list(zip(bounds, [*bounds[1:], start_s + duration_s], strict=True))
