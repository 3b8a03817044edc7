"""Show progress: a live block on a terminal, periodic lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from malmm.jobs.terminal.log_lines import JsonLines
from malmm.jobs.terminal.quiet_ray import quiet_ray
from malmm.jobs.terminal.text import clock, size
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["ProgressDisplay", "progress_line", "progress_shown"]

_LINE_EVERY_S = 10.0
_STAGES = {
    "listing": "Listing sources",
    "choosing": "Choosing a model",
    "downloading": "Downloading the model",
    "starting": "Starting",
    "connecting": "Connecting to Ray",
    "waiting for workers": "Waiting for workers",
    "probing": "Reading headers",
    "indexing": "Indexing",
    "waiting": "Waiting to try again what failed",
    "describing": "Asking stored memory",
    "reading annotations": "Reading annotations",
    "evaluating": "Asking about clips",
    "reading examples": "Reading examples",
    "training": "Training",
    "writing": "Writing the checkpoint",
    "transcribing": "Reading subtitles",
    "recognising": "Recognising speech",
    "tidying": "Merging small files",
    "purging": "Purging forgotten videos",
    "making vectors": "Making vectors",
    "building indexes": "Building indexes",
}


def progress_line(progress: Progress) -> str:
    """Format stage, progress, speed and remaining time on one line."""
    parts = [_STAGES.get(progress.stage, progress.stage)]
    if progress.stage in ("describing", "transcribing", "recognising"):
        parts.append(f"{progress.videos_done} of {progress.videos_total} subjects")
    elif progress.stage == "training":
        parts.append(f"step {progress.videos_done} of {progress.videos_total}")
    elif progress.stage == "evaluating":
        parts.append(f"{progress.videos_done} of {progress.videos_total} clips")
    elif progress.videos_total:
        parts.append(f"{progress.videos_done} of {progress.videos_total} videos")
    if progress.bytes_total:
        parts.append(f"{size(progress.bytes_done)} of {size(progress.bytes_total)}")
    if progress.segments_total:
        parts.append(f"{progress.segments_done} of {progress.segments_total} segments")
    if progress.so_far and progress.videos_total:
        parts[-1] += " so far"
    if progress.times_real_time is not None:
        parts.append(f"{progress.times_real_time:.1f}x real time")
    if (
        progress.left_s is not None
        and progress.segments_done < progress.segments_total
        and not progress.so_far
    ):
        parts.append(f"{clock(round(progress.left_s))} left")
    elif progress.stage == "indexing" and not progress.segments_done and not progress.note:
        parts.append("starting workers")
    if progress.failures:
        parts.append(f"{progress.failures} failed")
    line = ", ".join(parts)
    return f"{line}: {progress.note}" if progress.note else line


class ProgressDisplay:
    """Context manager, called with each ``Progress``. Writes to standard error only."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._live: Live | None = None
        self._stage = self._note = ""
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show the progress."""
        if self._quiet:
            return
        if self._live is not None:
            if progress.lasting:
                self._console.print(Text(progress_line(progress)))
            self._live.update(_block(progress))
            return
        now = time.monotonic()
        news = (progress.stage, progress.note) != (self._stage, self._note)
        if news or now - self._last_line >= _LINE_EVERY_S:
            self._stage, self._note, self._last_line = progress.stage, progress.note, now
            print(progress_line(progress), file=sys.stderr, flush=True)


def _block(progress: Progress) -> Table:
    grid = Table.grid(padding=(0, 1))
    bar: ProgressBar | Text = Text("")
    total = progress.bytes_total or progress.video_s_total or progress.videos_total
    if total:
        done = progress.video_s_done if progress.video_s_total else progress.videos_done
        done = progress.bytes_done if progress.bytes_total else done
        bar = ProgressBar(total=total, completed=done, width=30)
    grid.add_row(Text(clock(int(progress.elapsed_s))), bar, Text(progress_line(progress)))
    return grid


@contextmanager
def progress_shown(*, quiet: bool, verbose: bool, log_format: str = "text") -> Iterator[OnProgress]:
    """Show a job's progress for the time of a block; call what it yields with each ``Progress``.

    Nothing of Ray's goes to standard output, which is for the summary, nor to standard error unless ``verbose``.
    """
    display = JsonLines() if log_format == "json" else ProgressDisplay(quiet=quiet or verbose)
    with (
        quiet_ray(verbose=verbose) as ray,
        display,
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(sys.stderr if verbose else nowhere),
    ):

        def show(progress: Progress) -> None:
            ray.started()
            display(progress)
            if progress.stage == "connecting":
                ray.starting()

        yield show
