from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given
from support.flow_rows import BROKEN, planned, video_at

from malmm.operators.guard import guarded, guarded_actor
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.rows import DECODED, FILES, PLANNED, PROBED, carried, rows_table

ROWS = planned(video_at(duration_s=30.0))


def raising(error: BaseException) -> Any:
    raise error.with_traceback(None)


def pass_on(rows: pa.Table, bad: dict[str, BaseException]) -> pa.Table:
    """``PLANNED`` to ``DECODED``, unless a row's segment is among the bad ones."""
    held = carried(rows)
    for row in held:
        if row.failure is None and row.segment is not None and row.segment.segment_id in bad:
            raising(bad[row.segment.segment_id])
    return rows_table([row.columns() for row in held], DECODED)


def as_function(rows: pa.Table, bad: dict[str, BaseException]) -> pa.Table:
    def operator(rows: pa.Table, *, bad: dict[str, BaseException]) -> pa.Table:
        return pass_on(rows, bad)

    made = guarded("decode", DECODED, operator)(rows, bad=bad)
    assert isinstance(made, pa.Table)
    return made


def as_generator(rows: pa.Table, bad: dict[str, BaseException]) -> pa.Table:
    def operator(rows: pa.Table, *, bad: dict[str, BaseException]) -> Iterator[pa.Table]:
        for index in range(rows.num_rows):
            yield pass_on(rows.slice(index, 1), bad)

    return pa.concat_tables([DECODED.empty_table(), *guarded("decode", DECODED, operator)(rows, bad=bad)])


def as_actor(rows: pa.Table, bad: dict[str, BaseException]) -> pa.Table:
    class Operator:
        def __init__(self, *, bad: dict[str, BaseException]) -> None:
            self.bad = bad

        def __call__(self, rows: pa.Table) -> pa.Table:
            return pass_on(rows, self.bad)

    actor = guarded_actor("decode", DECODED, Operator)
    assert actor.__name__ == "Operator"
    made: pa.Table = actor(bad=bad)(rows)
    return made


class Panic(BaseException):
    """Not an Exception, like pyo3's PanicException."""


ERRORS: list[BaseException] = [
    Panic("called `Option::unwrap()` on a `None` value"),
    KeyError("frames"),
    AttributeError("'Table' object has no attribute 'frames'"),
    TypeError("two\nlines"),
    ZeroDivisionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ExceptionGroup("several", [ValueError("one"), OSError("two")]),
    pa.ArrowInvalid("not a table"),
    MemoryError(),
]


def test_a_named_operator_is_loaded_where_it_is_made() -> None:
    actor = guarded_actor("decode", DECODED, "no_such_module:Operator")
    assert actor.__name__ == "Operator"
    with pytest.raises(ModuleNotFoundError):
        actor()
    named = guarded_actor("count", DECODED, "collections:Counter")
    assert named(a=2).inner["a"] == 2


@pytest.mark.parametrize("guard", [as_function, as_generator, as_actor])
@given(
    bad=st.dictionaries(st.integers(0, len(ROWS) - 1), st.sampled_from(ERRORS)),
    failed=st.sets(st.integers(0, len(ROWS) - 1)),
)
def test_a_row_fails_by_itself_and_says_where(
    guard: Any, bad: dict[int, BaseException], failed: set[int]
) -> None:
    rows = [row.failed("probe", "damaged", "why") if at in failed else row for at, row in enumerate(ROWS)]
    table = guard(
        rows_table([row.columns() for row in rows], PLANNED),
        {row.segment.segment_id: bad[at] for at, row in enumerate(ROWS) if at in bad and row.segment},
    )
    assert table.schema == DECODED
    assert table.num_rows == len(rows)
    for at, (before, after) in enumerate(zip(rows, carried(table), strict=True)):
        assert (after.video, after.segment) == (before.video, before.segment)
        if at in failed or at not in bad:
            assert after == before
            continue
        assert after.failure is not None
        assert (after.failure.stage, after.failure.kind) == ("decode", type(bad[at]).__name__)
        assert "test_guard.py:" in after.failure.message
        assert "\n" not in after.failure.message
        assert "in raising\n" in after.failure.trace
        assert type(bad[at]).__name__ in after.failure.trace.partition("in raising\n")[2]
        assert "guard.py" not in after.failure.trace.replace("test_guard.py", "")


def test_a_listed_file_has_no_video_yet_and_fails_all_the_same() -> None:
    files = rows_table([{"uri": "/videos/a.mp4", "fingerprint": "f"}], FILES)
    probe = guarded("probe", PROBED, lambda rows: raising(KeyError("codec")))
    table = probe(files)
    assert isinstance(table, pa.Table)
    assert table.schema == PROBED
    [row] = carried(table)
    failure = row.failure
    assert failure is not None
    assert (failure.video_id, failure.uri) == (video_id("/videos/a.mp4"), "/videos/a.mp4")
    assert (failure.stage, failure.kind, failure.fingerprint) == ("probe", "KeyError", "f")


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, CancelledError])
def test_what_ends_a_process_is_no_failure_of_a_row(end: type[BaseException]) -> None:
    rows = rows_table([BROKEN.columns()], PLANNED)
    with pytest.raises(end):
        guarded("decode", DECODED, lambda rows: raising(end()))(rows)


def test_a_guarded_operator_is_named_as_its_own() -> None:
    def decode_segments(rows: pa.Table) -> pa.Table:
        return rows

    assert guarded("decode", DECODED, decode_segments).__name__ == "decode_segments"
