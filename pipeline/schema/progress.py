"""Progress of a run, as reported to its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["OnProgress", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Progress of a run. ``video_s_*`` are seconds of video, ``elapsed_s`` seconds since the stage began.

    ``warm_s`` and ``warm_video_s`` are the time and the work done when the first segments were finished, after models
    were loaded: the pace is measured from there on. ``so_far`` means that sources are still being listed or headers
    read, so that totals may grow. ``note`` is a sentence for users, for example what the run waits for; a ``lasting``
    one stays on the screen. ``bytes_*`` are of a download.
    """

    stage: str
    videos_done: int = 0
    videos_total: int = 0
    segments_done: int = 0
    segments_total: int = 0
    video_s_done: float = 0.0
    video_s_total: float = 0.0
    failures: int = 0
    elapsed_s: float = 0.0
    warm_s: float = 0.0
    warm_video_s: float = 0.0
    note: str = ""
    lasting: bool = False
    bytes_done: int = 0
    bytes_total: int = 0
    so_far: bool = False

    @property
    def times_real_time(self) -> float | None:
        """Seconds of video done per second; None before there is a pace."""
        done, took = self.video_s_done - self.warm_video_s, self.elapsed_s - self.warm_s
        return done / took if done > 0 and took > 0 else None

    @property
    def left_s(self) -> float | None:
        """Estimated seconds left at the current pace; None before there is one."""
        pace = self.times_real_time
        return (self.video_s_total - self.video_s_done) / pace if pace else None


OnProgress = Callable[[Progress], None]
