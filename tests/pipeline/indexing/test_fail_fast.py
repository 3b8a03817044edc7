from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa
import pytest
from support.flow_rows import video_at

from malmm.pipeline.indexing import replay_commits
from malmm.pipeline.indexing.fail_fast import LATER, ROWS_ALIKE, VIDEOS_ALIKE, FailFast
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.replay_commits import ReplayCommits
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.rows import ANSWERED, Carried, rows_table

TRACE = """  File "/a/encode.py", line 7, in work
    rows["x"]
  File "/a/rows.py", line {}, in at
    f()
KeyError: 1
"""


def failure(
    stage: str = "encode", kind: str = "KeyError", line: int = 3, video: int = 0, trace: str | None = None
) -> Failure:
    trace = TRACE.format(line) if trace is None else trace
    return Failure(f"v{video}", "s", "/v.mp4", stage, kind, "'x' (rows.py:3)", "f", trace)


DAMAGED = failure(trace="")


def seen(*outcomes: Failure | None) -> FailFast:
    alike = FailFast()
    for outcome in outcomes:
        alike.see(outcome)
    return alike


@pytest.mark.parametrize(
    ("before", "times"),
    [
        ([], 1),
        # What an operator expects says nothing of the others.
        ([DAMAGED], 1),
        ([DAMAGED] * 100, 1),
        ([failure(line=4)], 1),
        ([failure(line=4, video=1)] * 4, 1),
        ([None], LATER),
        ([failure(video=video) for video in range(4)] + [None], LATER),
        ([None, DAMAGED], LATER),
    ],
)
def test_rows_that_fail_alike_end_the_run_with_the_traceback(
    before: list[Failure | None], times: int
) -> None:
    alike = seen(*before)
    for video in range(times * ROWS_ALIKE - 1):
        alike.see(failure(video=video))
        alike.see(DAMAGED)
    with pytest.raises(WorkerError) as caught:
        alike.see(failure(video=1))
    for part in ("'encode'", "KeyError", "rows.py:3", 'File "/a/rows.py", line 3, in at'):
        assert part in str(caught.value)


@pytest.mark.parametrize("at", range(ROWS_ALIKE))
@pytest.mark.parametrize(
    "other", [None, failure(stage="decode"), failure(kind="TypeError"), failure(line=4), DAMAGED]
)
def test_rows_that_do_not_all_fail_alike_let_the_run_go_on(at: int, other: Failure | None) -> None:
    for _ in range(4):
        rows: list[Failure | None] = [failure(video=video) for video in range(ROWS_ALIKE - 1)]
        seen(*rows[:at], other, *rows[at:])


def test_one_video_does_not_end_the_run_of_others() -> None:
    seen(*(failure(video=number % (VIDEOS_ALIKE - 1)) for number in range(100 * ROWS_ALIKE)))


def test_new_texts_for_stored_memory_end_early_too(monkeypatch: pytest.MonkeyPatch) -> None:
    yielded = []

    def rows() -> Iterator[pa.Table]:
        for number in range(100):
            yielded.append(number)
            row = Carried(video_at(f"/videos/{number}.mp4"), None, None)
            yield rows_table([row.failed("replay", "KeyError", "1", TRACE.format(3)).columns()], ANSWERED)

    monkeypatch.setattr(replay_commits, "received", lambda blocks: blocks)
    archive = cast(Any, None)  # nothing is ready to be stored
    commits = ReplayCommits(archive, (), Ledger(), lambda progress: None, clear_failures=False)
    with pytest.raises(WorkerError, match="5 rows of 5 videos failed in the same way"):
        commits.go(cast(Any, rows()), of=[])
    assert len(yielded) == ROWS_ALIKE
