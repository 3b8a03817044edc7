"""Which frames are sampled and how videos are tiled: properties against a plain statement of the rule."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from malmm.operators.media.sampling import Cells, exact_rate, exact_seconds, plan_spans, sample_ticks

TIME_BASES = [Fraction(1, 90000), Fraction(1, 12288), Fraction(1, 1000), Fraction(1001, 30000)]
RATES = [0.1, 0.3, 1 / 3, 1.0, 2.0, 2.5, 10.0, 23.976023976, 24.0, 29.97, 30000 / 1001, 60.0]

time_bases = st.sampled_from(TIME_BASES)
rates = st.sampled_from(RATES)


@st.composite
def tick_lists(draw: st.DrawFn) -> list[int]:
    return sorted(draw(st.sets(st.integers(0, 400_000), min_size=1, max_size=80)))


@given(tick_lists(), time_bases, rates, st.integers(0, 20), st.integers(1, 40), st.booleans())
def test_the_sample_of_a_cell_is_the_first_frame_in_it(
    ticks: list[int], time_base: Fraction, fps: float, start_s: int, length_s: int, is_last: bool
) -> None:
    cells = Cells.of(start_s, start_s + length_s, fps, time_base, is_last=is_last)
    chosen = [ticks[position] for position in sample_ticks(ticks, cells)]

    expected = []
    period = 1 / exact_rate(fps)
    index = 0
    while start_s + index * period < start_s + length_s + (period if is_last else 0):
        low, high = start_s + index * period, start_s + (index + 1) * period
        if not is_last:
            high = min(high, Fraction(start_s + length_s))
        inside = [tick for tick in ticks if low <= tick * time_base < high]
        expected += inside[:1]
        index += 1
    # The last segment reaches one whole cell further than its last one.
    assert chosen[: len(expected)] == expected
    assert len(chosen) - len(expected) <= int(is_last)
    assert len(chosen) <= cells.count
    assert len(set(chosen)) == len(chosen)


@given(tick_lists(), time_bases, rates, st.integers(1, 60))
def test_spans_together_sample_what_one_by_one_the_rule_says(
    ticks: list[int], time_base: Fraction, fps: float, segment_s: int
) -> None:
    start_s, end_s = float(ticks[0] * time_base), float((ticks[-1] + 1) * time_base)
    spans = plan_spans(start_s, end_s - start_s, max(segment_s, 1 / fps), fps)
    assume(len(spans) <= 200)
    chosen = []
    for number, (low, high) in enumerate(spans):
        cells = Cells.of(low, high, fps, time_base, is_last=number == len(spans) - 1)
        chosen += [ticks[position] for position in sample_ticks(ticks, cells)]
    assert chosen == sorted(set(chosen))
    assert chosen[0] == ticks[0]
    # Between two samples no frame lies a whole period after the one and is not sampled itself.
    period = 1 / exact_rate(fps)
    for before, after in itertools.pairwise(chosen):
        between = [tick for tick in ticks if before < tick < after]
        assert all((tick - before) * time_base < period for tick in between)


FRAME_RATES = (Fraction(24), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(60))
CLOCKS = (Fraction(1, 90000), Fraction(1, 30000), Fraction(1, 24000))


@pytest.mark.parametrize(
    ("rate", "time_base"),
    [
        (rate, time_base)
        for rate, time_base in itertools.product(FRAME_RATES, CLOCKS)
        if (1 / rate / time_base).denominator == 1  # the others cannot hold the rate
    ],
)
def test_sampling_at_the_rate_of_the_video_takes_every_frame(rate: Fraction, time_base: Fraction) -> None:
    ticks = [int(number / rate / time_base) for number in range(10_000)]
    end_s = float(10_000 / rate)
    assert len(sample_ticks(ticks, Cells.of(0.0, end_s, float(rate), time_base, is_last=True))) == 10_000


def test_a_frame_on_the_boundary_belongs_to_the_cell_that_begins_there() -> None:
    # 29.97 fps: frame 30 is shown at 1.001 s, frame 2997 of a 100.0 s segment at 99.9999 s.
    time_base = Fraction(1, 30000)
    ticks = [number * 1001 for number in range(4000)]
    start_s = float(1001 * time_base)  # 0.03336666666666667, not the exact time of frame 1
    cells = Cells.of(start_s, start_s + 1.001, 29.97002997, time_base, is_last=False)
    assert sample_ticks(ticks, cells) == list(range(1, 31))


def test_the_last_frame_on_the_rounded_end_is_in_the_last_span_only() -> None:
    ticks = [0, 500, 1000]
    assert sample_ticks(ticks, Cells.of(0, 1, 2, Fraction(1, 1000), is_last=False)) == [0, 1]
    assert sample_ticks(ticks, Cells.of(0, 1, 2, Fraction(1, 1000), is_last=True)) == [0, 1, 2]


def test_a_cell_without_a_frame_gives_none() -> None:
    assert sample_ticks([0, 5000], Cells.of(0, 10, 1, Fraction(1, 1000), is_last=True)) == [0, 1]


def test_floats_stand_for_the_numbers_that_they_print_as() -> None:
    assert exact_rate(0.3) == Fraction(3, 10)
    assert exact_rate(1 / 3) == Fraction(1, 3)
    assert exact_rate(29.97) == Fraction(2997, 100)
    assert exact_rate(30000 / 1001) == Fraction(30000, 1001)
    assert exact_rate(1e-6) == Fraction(1, 1_000_000)
    assert exact_seconds(6.4, Fraction(1, 90000)) == Fraction(32, 5)
    assert exact_seconds(0.05, Fraction(1, 30)) == Fraction(1, 20)


@given(
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.floats(10, 1e4),
    st.floats(0.1, 60),
)
def test_spans_tile_the_video(start_s: float, duration_s: float, segment_s: float, fps: float) -> None:
    spans = plan_spans(start_s, duration_s, segment_s, fps)
    assert spans[0][0] == start_s
    assert spans[-1][1] == start_s + duration_s
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    for low, high in spans[:-1]:
        assert high - low == pytest.approx(segment_s, abs=1e-6)
    last_s = spans[-1][1] - spans[-1][0]
    assert last_s < segment_s + 1 / fps + 1e-6
    if len(spans) > 1:
        assert last_s >= 1 / fps - 1e-6


@pytest.mark.parametrize(
    ("duration_s", "count"),
    [(0.0, 1), (0.04, 1), (10.0, 1), (10.5, 1), (11.0, 2), (20.0, 2), (20.99, 2), (25.0, 3)],
)
def test_a_tail_of_less_than_a_period_is_joined(duration_s: float, count: int) -> None:
    spans = plan_spans(5.0, duration_s, 10.0, 1.0)
    assert len(spans) == count
    assert spans[-1][1] == 5.0 + duration_s


@pytest.mark.parametrize(
    "arguments", [(float("nan"), 1.0, 1.0, 1.0), (0.0, -1.0, 1.0, 1.0), (0.0, 1.0, 0.0, 1.0)]
)
def test_what_cannot_be_tiled_is_refused(arguments: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="cannot plan"):
        plan_spans(*arguments)
