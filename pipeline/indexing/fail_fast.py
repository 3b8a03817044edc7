"""End a run early if row after row fails at the same line: a programming error, on which every row would fail."""

from __future__ import annotations

from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.records import Failure

__all__ = ["LATER", "ROWS_ALIKE", "VIDEOS_ALIKE", "FailFast"]

#: A run ends if so many rows, of so many videos, fail at the same line before any row succeeds.
ROWS_ALIKE, VIDEOS_ALIKE = 5, 3
#: Once a row has succeeded, so many times as many must fail at the same line, one after the other.
LATER = 20


class FailFast:
    """Watches a run's rows for the same unexpected exception over and over.

    Rows of one video count as one video: a video that an operator cannot cope with must not end the run of others.
    """

    def __init__(self) -> None:
        self._any_succeeded = False
        self._place: tuple[str, str, str] | None = None
        self._rows = 0
        self._videos: set[str] = set()

    def see(self, failure: Failure | None) -> None:
        """Note a row's failure, or None if it succeeded.

        Raises WorkerError with the traceback when too many rows in a row have failed at the same line. Failures that an
        operator expects, such as a damaged file, have no traceback; they tell nothing about the other rows.
        """
        if failure is None:
            self._any_succeeded, self._place = True, None
            return
        if not failure.trace:
            return
        place = (failure.stage, failure.kind, _last_place(failure.trace))
        if place != self._place:
            self._place, self._rows, self._videos = place, 0, set()
        self._rows += 1
        self._videos.add(failure.video_id)
        times = LATER if self._any_succeeded else 1
        if self._rows >= times * ROWS_ALIKE and len(self._videos) >= times * VIDEOS_ALIKE:
            raise WorkerError(
                f"{self._rows} rows of {len(self._videos)} videos failed in the same way, one after the other, in "
                f"stage {failure.stage!r}, so the others would too; this is an error in the program. {failure.kind}: "
                f"{failure.message}\n{failure.trace}"
            )


def _last_place(trace: str) -> str:
    """The last file and line of a traceback."""
    return trace.rpartition('  File "')[2].partition(", in ")[0]
