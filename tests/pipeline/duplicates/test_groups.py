"""Groups by the union of runs, and lists that keep each passage once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.pipeline.duplicates.groups import Span, grouped, left_out, merged
from malmm.pipeline.duplicates.runs import Run

LENGTH_S = 100.0


def run(first: int, first_span: Span, second: int, second_span: Span) -> Run:
    return Run(first, second, first_span, second_span, 1.0, 0.9, 0.9)


def passages(runs: list[Run]) -> list[list[tuple[int, float, float]]]:
    return [[(m.video, m.start_s, m.end_s) for m in members] for members, _ in grouped(runs)]


def test_copies_of_a_copy_are_one_group() -> None:
    runs = [run(0, (0, 100), 1, (0, 100)), run(1, (0, 100), 2, (0, 100)), run(3, (0, 50), 4, (0, 50))]
    assert passages(runs) == [[(0, 0, 100), (1, 0, 100), (2, 0, 100)], [(3, 0, 50), (4, 0, 50)]]


def test_a_cut_belongs_to_what_it_was_cut_from() -> None:
    runs = [run(0, (0, 100), 1, (0, 100)), run(1, (20, 50), 2, (0, 30))]
    assert passages(runs) == [[(0, 0, 100), (1, 0, 100), (2, 0, 30)]]


def test_a_compilation_does_not_join_what_it_is_made_of() -> None:
    runs = [run(0, (0, 40), 2, (0, 40)), run(1, (0, 40), 2, (40, 80))]
    assert passages(runs) == [[(0, 0, 40), (2, 0, 40)], [(1, 0, 40), (2, 40, 80)]]


def test_passages_that_only_touch_are_not_joined() -> None:
    runs = [run(0, (0, 60), 1, (0, 60)), run(1, (50, 100), 2, (0, 50))]
    assert len(passages(runs)) == 2


def leave(runs: list[Run], order: list[int], **options: Any) -> dict[int, tuple[tuple[Span, ...], bool]]:
    spans = [(0.0, LENGTH_S)] * (max(order) + 1)
    return {each.video: (each.spans, each.whole) for each in left_out(runs, order, spans, **options)}


def test_the_first_in_order_is_kept() -> None:
    runs = [run(0, (0, 100), 1, (0, 100)), run(0, (10, 40), 2, (5, 35))]
    assert leave(runs, [0, 1, 2]) == {1: (((0, 100),), True), 2: (((5, 35),), False)}
    assert leave(runs, [2, 1, 0]) == {0: (((0, 100),), True)}


def test_repeats_are_left_out_only_where_asked_for() -> None:
    runs = [run(0, (0, 20), 0, (60, 80))]
    assert leave(runs, [0]) == {}
    assert leave(runs, [0], repeats=True) == {0: (((60, 80),), False)}


def test_spans_beyond_the_video_are_clipped() -> None:
    assert leave([run(0, (0, 99), 1, (-2, 101))], [0, 1]) == {1: (((0, 100),), True)}


spans = st.tuples(st.integers(0, 80), st.integers(1, 20)).map(lambda it: (float(it[0]), float(it[0] + it[1])))


@st.composite
def random_runs(draw: st.DrawFn) -> list[Run]:
    made = []
    for _ in range(draw(st.integers(0, 8))):
        first, second = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        start_s, end_s = draw(spans)
        there_s = float(draw(st.integers(0, 80)))
        made.append(run(first, (start_s, end_s), second, (there_s, there_s + end_s - start_s)))
    return made


@given(random_runs(), st.permutations(range(5)))
def test_of_each_passage_something_is_kept(runs: list[Run], order: list[int]) -> None:
    """Follow each second that is left out from copy to copy: it ends at one that is kept."""
    left = leave(runs, list(order))
    rank = {video: place for place, video in enumerate(order)}

    def is_left(video: int, at: float) -> bool:
        return any(start <= at < end for start, end in left.get(video, ((), False))[0])

    def is_kept_somewhere(video: int, at: float) -> bool:
        if not is_left(video, at):
            return True
        for each in runs:
            for mine, span, other, theirs in (
                (each.first, each.first_span, each.second, each.second_span),
                (each.second, each.second_span, each.first, each.first_span),
            ):
                if mine == video and rank[other] < rank[video] and span[0] <= at < span[1]:
                    return is_kept_somewhere(other, theirs[0] + at - span[0])
        return False

    for video in left:
        for at in range(int(LENGTH_S)):
            assert is_kept_somewhere(video, at + 0.5)


@given(random_runs())
def test_each_run_is_in_one_group_with_both_of_its_passages(runs: list[Run]) -> None:
    groups = grouped(runs)
    assert sorted(place for _, places in groups for place in places) == list(range(len(runs)))
    for members, places in groups:
        for place in places:
            each = runs[place]
            for video, (start_s, end_s) in ((each.first, each.first_span), (each.second, each.second_span)):
                assert any(m.video == video and m.start_s <= start_s and end_s <= m.end_s for m in members)


@given(st.lists(spans))
def test_a_union_of_spans_covers_the_same_seconds(some: list[Span]) -> None:
    union = merged(some)
    covered = {at for start, end in some for at in range(int(start), int(end))}
    assert {at for start, end in union for at in range(int(start), int(end))} == covered
    assert all(one[1] < other[0] for one, other in itertools.pairwise(union))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_without_runs_nothing_is_left_out(order: list[int]) -> None:
    assert leave([], order) == {}
