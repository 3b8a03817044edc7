"""Ending a run early whose every row fails in the same way: a programming error, which no other row would survive."""

from __future__ import annotations

from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.records import Failure

__all__ = ["ROWS_ALIKE", "FailFast"]

#: So many of a run's first rows that all fail at the same place end it.
ROWS_ALIKE = 5


class FailFast:
    """Watches a run's first rows. One that succeeds, or fails otherwise, ends the watch."""

    def __init__(self) -> None:
        self._count = 0
        self._first: tuple[str, str, str] | None = None
        self._watching = True

    def see(self, failure: Failure | None) -> None:
        """Look at a row's failure, or at None where it succeeded.

        Raises WorkerError with the traceback when the first rows have all failed alike. What an operator foresees, such
        as a file that is damaged, has no traceback and counts as another failure.
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
    """The last file and line that a traceback names."""
    return trace.rpartition('  File "')[2].partition(", in ")[0]
