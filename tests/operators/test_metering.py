from __future__ import annotations

import pyarrow as pa
import pytest

from malmm.operators.metering import IdleMeter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_idle_is_the_share_between_calls() -> None:
    clock = Clock()
    told: list[float] = []
    meter = IdleMeter(told.append, clock)

    def work(rows: pa.Table) -> pa.Table:
        clock.now += 3.0
        return rows

    rows = pa.table({"a": [1]})
    for pause in (1.0, 5.0):
        clock.now += pause
        assert meter.measured(work, rows) is rows
    assert told == pytest.approx([0.25, 0.5])


def test_what_is_long_ago_counts_for_less_and_errors_count_as_work() -> None:
    clock = Clock()
    told: list[float] = []
    meter = IdleMeter(told.append, clock)

    def fail(rows: pa.Table) -> pa.Table:
        clock.now += 10.0
        raise ValueError

    clock.now += 1000.0
    for _ in range(40):
        with pytest.raises(ValueError):
            meter.measured(fail, pa.table({}))
    assert told[0] > 0.9
    assert told[-1] < 0.1
    assert all(0 <= share <= 1 for share in told)
