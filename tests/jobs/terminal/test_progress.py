"""Progress in words: what a run waits for before its first result, and how far it is afterwards."""

from __future__ import annotations

from dataclasses import replace

import pytest

from malmm.jobs.terminal.progress import ProgressDisplay, progress_line
from malmm.pipeline.schema.progress import Progress

START = Progress("indexing", videos_total=4, segments_total=9)


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (START, "Indexing, 0 of 4 videos, 0 of 9 segments, starting workers"),
        (
            replace(START, note="a worker loads the model"),
            "Indexing, 0 of 4 videos, 0 of 9 segments: a worker loads the model",
        ),
        (
            Progress("evaluating", videos_total=4, note="a worker loads the model"),
            "Asking about clips, 0 of 4 clips: a worker loads the model",
        ),
    ],
)
def test_what_a_run_waits_for_is_said_before_its_first_result(progress: Progress, line: str) -> None:
    assert progress_line(progress) == line


def test_a_note_is_printed_at_once_and_not_again(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        for note in ("", "a worker loads the model", "a worker loads the model"):
            display(Progress("evaluating", videos_total=4, note=note))
    assert capsys.readouterr().err.splitlines() == [
        "Asking about clips, 0 of 4 clips",
        "Asking about clips, 0 of 4 clips: a worker loads the model",
    ]
