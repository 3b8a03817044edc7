from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from malmm.operators.change_frames import change_frames
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.rows import DECODED, Carried, array_at, carried, rows_table, with_arrays

FRAMES = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
FAILED = Carried(None, None, Failure("v", None, "a.mp4", "decode", "damaged", "no"))


def row(**columns: Any) -> dict[str, Any]:
    return with_arrays({"timestamps_s": [0.0, 1.0, 2.0, 3.0], "decoded_end_s": 4.0} | columns, frames=FRAMES)


def test_what_the_function_returns_goes_on_and_failures_pass() -> None:
    rows = rows_table([row(), FAILED.columns(), row(problem="cut short")], DECODED)
    changed = change_frames(rows, function=lambda frames, times_s: (frames[1:3], times_s[1:3]))
    assert changed.schema == rows.schema
    for index in (0, 2):
        assert np.array_equal(array_at(changed, "frames", index, np.uint8), FRAMES[1:3])
        assert changed["timestamps_s"][index].as_py() == [1.0, 2.0]
        assert changed["decoded_end_s"][index].as_py() == 4.0
    assert changed["problem"].to_pylist() == [None, None, "cut short"]
    assert carried(changed)[1] == FAILED


@pytest.mark.parametrize(
    "function",
    [
        lambda frames, times_s: (frames[:0], times_s[:0]),
        lambda frames, times_s: (frames[:2], times_s),
        lambda frames, times_s: (frames[::-1], times_s[::-1]),
        lambda frames, times_s: (frames / 255, times_s),
        lambda frames, times_s: (frames[:, :1], times_s),
        lambda frames, times_s: (frames[0], times_s[:1]),
    ],
    ids=["none left", "times of others", "backwards", "not bytes", "another size", "one frame alone"],
)
def test_what_could_not_be_encoded_is_refused(function: Any) -> None:
    with pytest.raises(ValueError, match="frames"):
        change_frames(rows_table([row()], DECODED), function=function)
