from __future__ import annotations

import pytest

from malmm.pipeline.evaluation.sampling import evenly, evenly_cut, windows, within


@pytest.mark.parametrize(
    ("first", "last", "count", "chosen"),
    [
        (0, 9, 4, (0, 3, 6, 9)),
        # Halves go to the even neighbour, as numpy's rint has them.
        (0, 5, 3, (0, 2, 5)),
        (0, 7, 3, (0, 4, 7)),
        # A short video has frames more than once.
        (0, 1, 4, (0, 0, 1, 1)),
        (3, 3, 2, (3, 3)),
    ],
)
def test_frames_are_spread_and_rounded(first: int, last: int, count: int, chosen: tuple[int, ...]) -> None:
    assert evenly(first, last, count) == chosen


def test_segments_of_youcook2_are_rounded_down() -> None:
    assert evenly_cut(1.0, 2.0, 4) == (10, 13, 16, 20)
    assert evenly_cut(0.05, 0.55, 2) == (0, 5)


@pytest.mark.parametrize(
    ("duration_s", "starts"),
    [(42, [0]), (100, [0]), (119, [0]), (120, [0, 20]), (162, [0, 20, 40, 60]), (20, [0])],
)
def test_windows_begin_where_a_whole_one_is_left(duration_s: int, starts: list[int]) -> None:
    assert windows(duration_s, 100, 20) == starts


def test_a_window_ends_a_second_before_its_length_or_with_the_video() -> None:
    # As the authors' class has it: 100 frames of seconds 20 to 119.
    assert within(20, 100, 162, 1923, 100) == evenly(200, 1190, 100)
    assert within(0, 100, 42, 717, 3) == (0, 210, 420)
    # Fewer frames were extracted than the duration says.
    assert within(0, 100, 42, 301, 3) == (0, 150, 300)
