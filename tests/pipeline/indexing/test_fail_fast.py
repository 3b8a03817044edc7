from __future__ import annotations

import pytest

from malmm.pipeline.indexing.fail_fast import ROWS_ALIKE, FailFast
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.records import Failure

TRACE = """  File "/a/encode.py", line 7, in work
    rows["x"]
  File "/a/rows.py", line {}, in at
    f()
KeyError: 1
"""


def failure(stage: str = "encode", kind: str = "KeyError", line: int = 3) -> Failure:
    return Failure("v", "s", "/v.mp4", stage, kind, "'x' (rows.py:3)", "f", TRACE.format(line))


def test_the_first_rows_that_fail_alike_end_the_run_with_the_traceback() -> None:
    alike = FailFast()
    for _ in range(ROWS_ALIKE - 1):
        alike.see(failure())
    with pytest.raises(WorkerError) as caught:
        alike.see(failure())
    for part in ("'encode'", "KeyError", "rows.py:3", 'File "/a/rows.py", line 3, in at'):
        assert part in str(caught.value)


@pytest.mark.parametrize("at", range(ROWS_ALIKE))
@pytest.mark.parametrize(
    "other",
    [
        None,
        failure(stage="decode"),
        failure(kind="TypeError"),
        failure(line=4),
        Failure("v", "s", "/v.mp4", "encode", "KeyError", "a file that is damaged", "f"),
    ],
)
def test_any_other_outcome_among_them_lets_the_run_go_on(at: int, other: Failure | None) -> None:
    alike = FailFast()
    for number in range(4 * ROWS_ALIKE):
        # A first row that fails otherwise is a place of its own, and the second one ends the watch.
        alike.see(other if number == at else failure())
