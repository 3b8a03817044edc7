"""Record a run in the archive's history while it runs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from malmm.jobs.telemetry import tell_of
from malmm.jobs.terminal.text import printable
from malmm.pipeline.archive.run_history import RunRecord, status_of, write_run
from malmm.pipeline.schema.errors import ArchiveError, MalmmError
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, exit_code_of_error
from malmm.pipeline.schema.progress import Progress

__all__ = ["Recorder", "counts_of", "recorded"]

_BEAT_S = 5.0
_MOST_SAMPLES = 240
_NO_COUNTS = ("exit_code", "dry_run", "interrupted")


def counts_of(report: Mapping[str, Any]) -> dict[str, float]:
    """Return a report's numbers, with failures counted by kind as ``failed.KIND``."""
    counts = {
        name: value
        for name, value in report.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NO_COUNTS
    }
    failures = report.get("failures", [])
    if failures:
        counts["failures"] = len(failures)
    for failure in failures:
        kind = f"failed.{failure['kind']}"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


class Recorder:
    """Writes a run's row when it begins, every few seconds, and when it ends.

    The row is written once the archive exists. If the archive cannot be written the run goes on, and ``problem``
    holds the reason.
    """

    def __init__(self, archive: str, run: RunRecord) -> None:
        self.run = run
        self.problem: str | None = None
        self._archive = archive
        self._began = time.monotonic()
        self._samples: list[tuple[float, str, int, float, int]] = []
        self._step_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="malmm-run", daemon=True)

    def start(self) -> None:
        """Write the first row and start the background updates."""
        self._write()
        self._thread.start()

    def watch(self, progress: Progress) -> None:
        """Store the latest progress for the next update."""
        at = round(time.monotonic() - self._began, 3)
        sample = (
            at,
            progress.stage,
            progress.segments_done,
            round(progress.video_s_done, 3),
            progress.failures,
        )
        last = self._samples[-1] if self._samples else None
        if last is None or last[1] != progress.stage or at - last[0] >= self._step_s:
            self._samples.append(sample)
        else:
            self._samples[-1] = (last[0], *sample[1:])
        if len(self._samples) > _MOST_SAMPLES:
            # Half as many, twice as far apart; a stage's first sample stays.
            kept = [
                each
                for index, each in enumerate(self._samples)
                if index % 2 == 0 or self._samples[index - 1][1] != each[1]
            ]
            self._samples = kept
            self._step_s = max(1.0, 2 * self._step_s)
        self.run = replace(self.run, progress=vars(progress), samples=tuple(self._samples))

    def count(self, report: Mapping[str, Any]) -> None:
        """Add a step's counts to the run."""
        counts = dict(self.run.counts)
        for name, value in counts_of(report).items():
            counts[name] = counts.get(name, 0) + value
        self.run = replace(self.run, counts=counts)

    def end(self, exit_code: int, error: str | None = None) -> None:
        """Write the run's final row."""
        self._ended.set()
        self._thread.join()
        now = datetime.now(UTC)
        self.run = replace(self.run, ended=now, exit_code=exit_code, status=status_of(exit_code), error=error)
        self._write()

    def _keep_writing(self) -> None:
        written = self.run
        while not self._ended.wait(_BEAT_S):
            # Also when nothing is new: silence means that it is lost.
            written = self.run
            self._write(written)

    def _write(self, run: RunRecord | None = None) -> None:
        try:
            write_run(self._archive, replace(run or self.run, updated=datetime.now(UTC)))
            self.problem = None
        except ArchiveError as error:
            self.problem = str(error)


@contextmanager
def recorded(archive: str, run: RunRecord) -> Iterator[Recorder]:
    """Record the run made in the block. The block calls ``end``; an exception is recorded and raised again."""
    recorder = Recorder(archive, run)
    recorder.start()
    try:
        yield recorder
    except KeyboardInterrupt:
        recorder.end(EXIT_INTERRUPTED)
        raise
    except MalmmError as error:
        recorder.end(exit_code_of_error(error), str(error))
        raise
    except BaseException as error:
        recorder.end(EXIT_FAILED, f"{type(error).__name__}: {error}")
        raise
    finally:
        tell_of(recorder.run, archive)
    # What ended a run matters more than its history, so this is said only of those that went well.
    if recorder.problem:
        print(f"note: not in the run history: {printable(recorder.problem)}", file=sys.stderr)
