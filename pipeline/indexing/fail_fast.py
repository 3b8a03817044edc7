"""End a run early if its first rows all fail at the same line: a programming error, on which every row would fail."""

from __future__ import annotations

from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.records import Failure

__all__ = ["ROWS_ALIKE", "FailFast"]

#: A run ends if so many of its first rows all fail at the same line.
ROWS_ALIKE = 5


class FailFast:
    """Watches a run's first rows. Stops watching at the first row that succeeds or fails elsewhere."""

    def __init__(self) -> None:
        self._count = 0
        self._first: tuple[str, str, str] | None = None
        self._watching = True

    def see(self, failure: Failure | None) -> None:
        """Note a row's failure, or None if it succeeded.

        Raises WorkerError with the traceback when the first ``ROWS_ALIKE`` rows have all failed at the same line.
        Failures that an operator expects, such as a damaged file, have no traceback and stop the watch.
        """
        if not self._watching:
            return
        place = (failure.stage, failure.kind, _last_place(failure.trace)) if failure is not None else None
        if failure is None or not failure.trace or place != (self._first or place):
            self._watching = False
            return
        self._first = place
        self._count += 1
        if self._count >= ROWS_ALIKE:
            raise WorkerError(
                f"the first {self._count} rows all failed in the same way in stage {failure.stage!r}, so the others "
                f"would too; this is an error in the program. {failure.kind}: {failure.message}\n{failure.trace}"
            )


def _last_place(trace: str) -> str:
    """The last file and line of a traceback."""
    return trace.rpartition('  File "')[2].partition(", in ")[0]
