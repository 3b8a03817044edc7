"""Copies of one video are copies of each other, also where that was not seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.pipeline.duplicates.groups import Span, grouped
from malmm.pipeline.duplicates.implied import with_implied
from malmm.pipeline.duplicates.runs import Run


def run(first: int, first_span: Span, second: int, second_span: Span, score: float = 0.9) -> Run:
    rate = (second_span[1] - second_span[0]) / (first_span[1] - first_span[0])
    return Run(first, second, first_span, second_span, rate, score, score)


def seen(found: Run) -> Run | None:
    """Whatever follows, the slots have it."""
    return found


def added(*runs: Run) -> list[Run]:
    return [each for each in with_implied(runs, seen) if each.via is not None]


def test_a_cut_is_a_copy_of_whatever_the_whole_is_a_copy_of() -> None:
    [found] = added(run(0, (0, 70), 1, (0, 70), 0.9), run(0, (20, 48), 2, (0, 28), 0.7))
    assert (found.first, found.second, found.via) == (1, 2, 0)
    assert found.first_span == pytest.approx((20, 48))
    assert found.second_span == pytest.approx((0, 28))
    assert found.score == pytest.approx(0.7)


@given(
    rates=st.lists(st.floats(0.85, 1.15), min_size=3, max_size=8),
    offsets=st.lists(st.floats(-500, 500), min_size=8, max_size=8),
    begins=st.lists(st.floats(0, 20), min_size=8, max_size=8),
)
def test_along_a_chain_of_copies_all_are_found_where_they_are(
    rates: list[float], offsets: list[float], begins: list[float]
) -> None:
    # Each run covers the source from a second of its own on, to the hundredth.
    def at(video: int, second: float) -> float:
        """Where a copy has this second of the source."""
        return rates[video] * second + offsets[video]

    chain = [
        run(
            here,
            (at(here, begins[here]), at(here, 100)),
            here + 1,
            (at(here + 1, begins[here]), at(here + 1, 100)),
        )
        for here in range(len(rates) - 1)
    ]
    found = with_implied(chain, seen)
    assert {(each.first, each.second) for each in found} == {
        (first, second) for second in range(len(rates)) for first in range(second)
    }
    for each in found:
        begin_s = max(begins[each.first : each.second])
        assert each.first_span == pytest.approx((at(each.first, begin_s), at(each.first, 100)))
        assert each.second_span == pytest.approx((at(each.second, begin_s), at(each.second, 100)))
    # They are copies already known to be of one group.
    assert len(grouped(found)) == len(grouped(chain)) == 1


def test_what_was_seen_itself_stays_alone() -> None:
    direct = [run(0, (0, 70), 1, (0, 70)), run(0, (0, 70), 2, (0, 70)), run(1, (0, 70), 2, (1, 71), 0.7)]
    assert with_implied(direct, seen) == direct


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([run(0, (0, 40), 2, (0, 40)), run(1, (0, 40), 2, (40, 80))], id="a compilation's parts"),
        pytest.param(
            [run(0, (0, 60), 1, (0, 60)), run(1, (45, 100), 2, (0, 55))], id="less than half is shared"
        ),
        pytest.param([run(0, (0, 30), 1, (0, 30)), run(0, (0, 30), 1, (60, 90))], id="within one video"),
        pytest.param([run(0, (0, 30), 0, (60, 90)), run(0, (0, 30), 0, (100, 130))], id="repeats alone"),
    ],
)
def test_nothing_follows_from(runs: list[Run]) -> None:
    assert with_implied(runs, seen) == runs


def test_what_the_slots_speak_against_does_not_follow() -> None:
    runs = [run(0, (0, 70), 1, (0, 70)), run(0, (0, 70), 2, (0, 70)), run(2, (0, 70), 3, (0, 70))]
    asked: list[tuple[int, int]] = []

    def other_pictures(found: Run) -> Run | None:
        asked.append((found.first, found.second))
        return None

    assert with_implied(runs, other_pictures) == runs
    assert sorted(asked) == [(0, 3), (1, 2)]


def test_few_of_many_ways_are_tried_in_vain() -> None:
    hubs = range(2, 40)
    runs = [run(end, (0, 70), hub, (0, 70)) for hub in hubs for end in (0, 1)]
    among = [run(one, (0, 70), other, (0, 70)) for one in hubs for other in hubs if one < other]
    asked: list[Run] = []

    def in_vain(found: Run) -> Run | None:
        asked.append(found)
        return None

    assert len(with_implied([*runs, *among], in_vain)) == len(runs) + len(among)
    assert 1 <= len(asked) <= 20


def test_the_better_way_is_taken() -> None:
    around = [run(0, (0, 70), 1, (0, 70)), run(0, (0, 70), 2, (0, 70), 0.7)]
    better = [run(1, (0, 70), 3, (0, 70), 0.8), run(2, (0, 70), 3, (0, 70), 0.8)]
    found = {(each.first, each.second): each.via for each in added(*around, *better)}
    assert found == {(0, 3): 1, (1, 2): 3}
    assert added(*(replace(each, first=each.second, second=each.first) for each in [*around, *better]))
