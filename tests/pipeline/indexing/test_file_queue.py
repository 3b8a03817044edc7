from __future__ import annotations

import itertools

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from malmm.pipeline.indexing.file_queue import POSITIONS, FileQueue, positions_for
from malmm.pipeline.schema.rows import FILES, rows_table


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def files(names: range) -> pa.Table:
    return rows_table([{"uri": str(name), "fingerprint": "f"} for name in names], FILES)


def names(table: pa.Table) -> list[int]:
    return [int(uri) for uri in table["uri"].to_pylist()]


@given(st.integers(0, 3000))
def test_files_that_are_all_known_fit_into_their_positions(count: int) -> None:
    positions = positions_for(count)
    queue = FileQueue(positions)
    queue.offer(files(range(count)))
    queue.close()
    sizes = []
    for position in range(positions):
        portion = queue.files_at(position)
        assert portion is not None
        sizes.append(portion.num_rows)
    assert sum(sizes) == count
    assert sizes[:-1] == sorted(sizes[:-1])
    assert all(sizes) or count == 0


@given(
    st.lists(st.tuples(st.integers(0, 400), st.floats(0, 30)), max_size=60),
    st.integers(1, 40),
    st.data(),
)
def test_every_file_is_given_out_once_in_order_and_the_same_to_who_asks_again(
    portions: list[tuple[int, float]], positions: int, data: st.DataObject
) -> None:
    clock = Clock()
    queue = FileQueue(positions, clock)
    given_out: list[pa.Table] = []
    offered = 0
    for count, pause_s in portions:
        queue.offer(files(range(offered, offered + count)))
        offered += count
        clock.now += pause_s
        while len(given_out) < positions and (portion := queue.files_at(len(given_out))) is not None:
            assert portion.num_rows > 0
            given_out.append(portion)
        if given_out:
            again = data.draw(st.integers(0, len(given_out) - 1))
            assert queue.files_at(again) == given_out[again]
        assert queue.files_at(len(given_out) + 1) is None
    assert len(given_out) < positions, "the last position waits for the end"
    queue.close()
    for position in range(len(given_out), positions):
        portion = queue.files_at(position)
        assert portion is not None
        given_out.append(portion)
    assert [name for portion in given_out for name in names(portion)] == list(range(offered))


def test_a_slow_listing_makes_files_wait_for_a_tenth_of_its_time_at_most() -> None:
    clock = Clock()
    queue = FileQueue(POSITIONS, clock)
    waited: list[tuple[float, float]] = []
    since = 0.0
    position = 0
    for second in itertools.count():
        if second > 3 * 3600:
            break
        clock.now = float(second)
        queue.offer(files(range(second, second + 1)))
        if queue.files_at(position) is not None:
            waited.append((clock.now, clock.now - since))
            since, position = clock.now, position + 1
    assert position < POSITIONS - 1
    assert all(wait_s <= 0.2 * at_s + 2 for at_s, wait_s in waited)


def test_plans_wait_until_segments_may_be_written() -> None:
    queue = FileQueue(1)
    assert not queue.note(files(range(1)))
    assert not queue.is_admitted()
    queue.admit()
    assert queue.is_admitted()
    assert queue.note(files(range(1, 2)))
    assert [names(table) for table in queue.take(0)] == [[0], [1]]
    # An answer that was lost on its way is asked for again.
    assert [names(table) for table in queue.take(0)] == [[0], [1]]
    assert [names(table) for table in queue.take(1)] == [[1]]
    assert queue.take(2) == []


def test_a_run_that_is_left_keeps_nobody_waiting() -> None:
    queue = FileQueue(2)
    queue.offer(files(range(1)))
    queue.end()
    assert queue.take(0) == []
    for ask in (lambda: queue.files_at(0), queue.is_admitted):
        with pytest.raises(RuntimeError, match="takes no more files"):
            ask()
