"""Report the progress of an indexing run to its caller and to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from malmm.pipeline.cluster.starvation import RoomWatch
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.metrics import RunMetrics
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["RunProgress"]

_TELL_EVERY_S = 0.1


@dataclass
class RunProgress:
    """Makes a ``Progress`` from the ledger and calls ``tell`` with it.

    ``metrics``, ``room`` and ``loading``, which says what workers load before the first segment is done, are set while
    Ray is connected.
    """

    tell: OnProgress
    ledger: Ledger
    report: IndexReport
    metrics: RunMetrics | None = None
    room: RoomWatch | None = None
    loading: Callable[[], str] | None = None
    _began: float = 0.0
    _told: float = 0.0
    _warm: tuple[float, float] | None = None

    def begin(self) -> None:
        """Start the clock of the indexing stage."""
        self._began = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether ``_TELL_EVERY_S`` has passed. Limits calls: each one counts all failures."""
        return time.monotonic() - self._told >= _TELL_EVERY_S

    def survey(self, files_done: int, files_total: int, *, so_far: bool) -> None:
        """Report the probing stage: headers are being read and nothing is planned yet."""
        self._told = time.monotonic()
        self.tell(
            Progress(
                "probing",
                videos_done=files_done,
                videos_total=files_total,
                failures=len(self.ledger.standing()),
                elapsed_s=self._told - self._began,
                note=self._room_note(files_done),
                so_far=so_far,
            )
        )

    def indexing(self, stage: str = "indexing", *, files_unread: int = 0, so_far: bool = False) -> None:
        """Report the ledger's state. ``files_unread`` listed files count as videos until they are probed."""
        ledger = self.ledger
        self._told = time.monotonic()
        elapsed_s = self._told - self._began
        if self._warm is None and ledger.video_s_done:
            self._warm = (elapsed_s, ledger.video_s_done)
        warm_s, warm_video_s = self._warm or (0.0, 0.0)
        standing = ledger.standing()
        progress = Progress(
            stage,
            videos_done=ledger.videos_done,
            videos_total=ledger.videos_total + files_unread,
            segments_done=ledger.segments_done,
            segments_total=ledger.segments_total,
            video_s_done=ledger.video_s_done,
            video_s_total=ledger.video_s_total,
            failures=len(standing),
            elapsed_s=elapsed_s,
            warm_s=warm_s,
            warm_video_s=warm_video_s,
            # A pause between two passes is no lack of room.
            note=(self._room_note(-files_unread) or self._loading_note()) if stage == "indexing" else "",
            so_far=so_far,
        )
        self.tell(progress)
        if self.metrics is not None:
            self.metrics.note(progress, self.report.frames, Counter(failure.kind for failure in standing))

    def _loading_note(self) -> str:
        return self.loading() if self.loading is not None and not self.ledger.segments_done else ""

    def _room_note(self, files: int) -> str:
        done = self.ledger.segments_done + len(self.ledger.failures) + files
        return self.room.note(done) if self.room is not None else ""
