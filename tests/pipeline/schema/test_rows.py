from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from support.flow_rows import BROKEN, failing_row, planned, video_at

from malmm.pipeline.schema import rows as flow
from malmm.pipeline.schema.rows import (
    DECODED,
    ENCODED,
    PLANNED,
    PROBED,
    RECEIPTS,
    REPLAYED,
    Carried,
    array_at,
    carried,
    rows_table,
    with_arrays,
)

ROW = planned(video_at())[1]
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def test_carried_comes_back_from_its_columns() -> None:
    rows = [ROW, Carried(video_at(), None, None), BROKEN, failing_row()]
    assert carried(rows_table([row.columns() for row in rows], PLANNED)) == rows


def test_a_stage_without_segments_carries_none() -> None:
    table = rows_table([Carried(video_at(), None, None).columns(), BROKEN.columns()], PROBED)
    assert [row.segment for row in carried(table)] == [None, None]


def test_a_failure_keeps_what_it_happened_to() -> None:
    failed = ROW.failed("encode", "ValueError", "why")
    assert (failed.video, failed.segment) == (ROW.video, ROW.segment)
    assert ROW.segment is not None
    assert failed.failure is not None
    assert failed.failure.segment_id == ROW.segment.segment_id
    assert failed.failure.uri == video_at().uri
    assert failed.failure.stage == "encode"
    whole = Carried(video_at(), None, None).failed("replay", "ValueError", "why")
    assert whole.failure is not None
    assert whole.failure.segment_id is None
    assert whole.failure.video_id == video_at().video_id


@given(
    st.lists(
        st.none() | st.builds(lambda shape, seed: (tuple(shape), seed), shapes, st.integers(0, 99)),
        max_size=4,
    ),
    st.sampled_from([np.uint8, np.float16, np.float32, np.int32]),
)
def test_arrays_come_back_from_their_columns(
    given: list[tuple[tuple[int, ...], int] | None], kind: type
) -> None:
    arrays: list[np.ndarray | None] = [
        None if one is None else np.random.default_rng(one[1]).integers(0, 99, one[0]).astype(kind)
        for one in given
    ]
    rows = [{} if array is None else with_arrays({}, frames=array) for array in arrays]
    table = rows_table(rows, DECODED)
    assert table.schema == DECODED
    for index, array in enumerate(arrays):
        if array is None:
            assert not table["frames"][index].is_valid
            assert not table["frames_shape"][index].is_valid
        else:
            back = array_at(table, "frames", index, kind)
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)


def test_arrays_that_are_not_in_c_order_are_put_in_it() -> None:
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4).transpose(2, 0, 1)
    table = rows_table([with_arrays({}, sizes=array), with_arrays({}, sizes=array[::-1])], ENCODED)
    np.testing.assert_array_equal(array_at(table, "sizes", 0, np.int32), array)
    np.testing.assert_array_equal(array_at(table, "sizes", 1, np.int32), array[::-1])


@pytest.mark.parametrize("rows", [1, 2])
def test_an_array_without_elements_keeps_its_shape(rows: int) -> None:
    table = rows_table([with_arrays({}, frames=np.empty((0, 5, 5, 3), np.uint8))] * rows, DECODED)
    assert array_at(table, "frames", rows - 1, np.uint8).shape == (0, 5, 5, 3)


def test_frames_are_neither_copied_nor_writable() -> None:
    arrays = [np.zeros((2, 3, 3, 3), np.uint8), np.ones((1, 3, 3, 3), np.uint8)]
    table = rows_table([with_arrays({}, frames=array) for array in arrays], DECODED)
    for index, array in enumerate(arrays):
        back = array_at(table, "frames", index, np.uint8)
        assert np.shares_memory(back, array)
        with pytest.raises(ValueError, match="read-only"):
            back[0] = 1


def test_a_slice_of_a_table_gives_its_own_arrays() -> None:
    arrays = [np.full((1, 2, 2, 3), value, np.uint8) for value in range(3)]
    table = rows_table([with_arrays({}, frames=array) for array in arrays], DECODED).slice(1, 2)
    np.testing.assert_array_equal(array_at(table, "frames", 1, np.uint8), arrays[2])


def test_no_rows_make_an_empty_table() -> None:
    for schema in (DECODED, ENCODED, RECEIPTS, REPLAYED):
        assert rows_table([], schema) == schema.empty_table()


def test_what_a_row_lacks_is_null() -> None:
    table = rows_table([failing_row().columns()], ENCODED)
    filled = [name for name in table.column_names if table[name][0].is_valid]
    assert filled == ["video", "segment", "failure"]


def test_every_schema_carries_the_failure_of_a_row() -> None:
    for name in ("PROBED", "PLANNED", "DECODED", "ENCODED", "ANSWERED", "RECEIPTS", "TO_REPLAY", "REPLAYED"):
        schema: pa.Schema = getattr(flow, name)
        assert schema.field("failure") == PLANNED.field("failure")
        assert schema.field("video") == PLANNED.field("video")


def test_arrays_of_a_table_in_several_chunks() -> None:
    arrays = [np.full((value + 1, 2, 2, 3), value, np.uint8) for value in range(5)]
    rows = [with_arrays({}, frames=array) for array in arrays]
    parts = [rows_table(rows[:2], DECODED), rows_table([], DECODED), rows_table(rows[2:], DECODED)]
    table = pa.concat_tables(parts).slice(1)
    for index, array in enumerate(arrays[1:]):
        np.testing.assert_array_equal(array_at(table, "frames", index, np.uint8), array)
