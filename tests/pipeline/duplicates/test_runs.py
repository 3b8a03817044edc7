"""Runs of planted copies are found where they are, and nothing else is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.planted_films import FRAME_S, SIZE, SLOT_S, Slot, film, sampled

from malmm.pipeline.duplicates.matching import mutual_pairs
from malmm.pipeline.duplicates.runs import (
    Limits,
    Run,
    Slots,
    correlation,
    find_runs,
    fitted_line,
    heaviest_chain,
    supported,
)


def of(*videos: list[Slot]) -> Slots:
    vectors = np.stack([vector for video in videos for _, _, vector in video])
    vectors = vectors - vectors.mean(0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Slots(
        vectors.astype(np.float16),
        np.repeat(np.arange(len(videos)), [len(video) for video in videos]),
        np.array([start for video in videos for start, _, _ in video]),
        np.array([end for video in videos for _, end, _ in video]),
    )


def runs_in(slots: Slots, limits: Limits | None = None) -> list[Run]:
    limits = limits or Limits()
    pairs = mutual_pairs(
        slots.vectors, slots.video, slots.middle_s, least=limits.similar, apart_s=30.0, block=64
    )
    return find_runs(slots, pairs, limits)


@dataclass(frozen=True)
class Planted:
    """Seconds [begin_s, end_s) of video 0 are all of video 1, at another speed and on another grid of slots."""

    seed: int
    begin_s: float
    end_s: float
    rate: float
    uneven: bool


planted = st.builds(
    Planted,
    seed=st.integers(0, 10_000),
    begin_s=st.floats(0, 100).map(lambda s: round(s, 1)),
    end_s=st.floats(200, 400).map(lambda s: round(s, 1)),
    rate=st.sampled_from([1.0, 0.95, 1.05, 1.1]),
    uneven=st.booleans(),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(planted)
def test_a_copy_is_found_where_it_is(plan: Planted) -> None:
    original, other = film(plan.seed, 400), film(plan.seed + 20_000, 300)
    cut = original[int(plan.begin_s / FRAME_S) : int(plan.end_s / FRAME_S)]
    slots = of(
        sampled(original, seed=1, uneven=plan.uneven),
        sampled(cut, plan.rate, seed=2, noise=0.2, uneven=plan.uneven),
        sampled(other, seed=3, uneven=plan.uneven),
    )
    found = runs_in(slots)
    assert {(run.first, run.second) for run in found} == {(0, 1)}
    covered_s = sum(run.first_span[1] - run.first_span[0] for run in found)
    assert covered_s > 0.85 * (plan.end_s - plan.begin_s)
    for run in found:
        # Both ends of a run show the same second of the film, but for a slot's length.
        for mine, theirs in zip(run.first_span, run.second_span, strict=True):
            assert mine == pytest.approx(plan.begin_s + theirs * plan.rate, abs=1.6 * SLOT_S)
        assert run.first_span[1] < plan.end_s + 2 * SLOT_S


def test_a_clip_within_other_videos_is_found_in_both() -> None:
    clip = film(1, 60)
    one = np.concatenate([film(2, 100), clip, film(3, 100)])
    other = np.concatenate([film(4, 33), clip, film(5, 50)])
    [run] = runs_in(of(sampled(one, seed=1), sampled(other, seed=2)))
    assert run.first_span == pytest.approx((100, 160), abs=SLOT_S)
    assert run.second_span == pytest.approx((33, 93), abs=SLOT_S)


def test_still_scenes_that_look_the_same_are_no_copies() -> None:
    chance = np.random.default_rng(0)
    look = chance.standard_normal(SIZE)
    stills = [
        sampled(np.repeat(look[None], 200, axis=0), seed=seed, uneven=bool(uneven))
        for seed, uneven in enumerate((0, 1, 0))
    ]
    black = [sampled(np.repeat(look[None], 300, axis=0), seed=0, noise=0.0) for _ in range(2)]
    films = [sampled(film(seed, 200), seed=seed) for seed in (7, 8)]
    assert runs_in(of(*stills, *black, *films)) == []


def test_a_short_cut_whose_slots_are_shorter_is_found() -> None:
    shown = film(1, 300)
    cut = shown[int(100 / FRAME_S) : int(140 / FRAME_S)]
    [run] = runs_in(
        of(sampled(shown, seed=1), sampled(cut, seed=2, slot_s=1.5), sampled(film(2, 300), seed=3))
    )
    assert run.first_span == pytest.approx((100, 140), abs=SLOT_S)
    assert run.second_span == pytest.approx((0, 40), abs=SLOT_S)


def test_a_still_scene_within_a_copy_does_not_break_it() -> None:
    still = np.repeat(film(1, 1)[:1], int(40 / FRAME_S), axis=0)
    shown = np.concatenate([film(2, 80), still, film(3, 80)])
    [run] = runs_in(of(sampled(shown, seed=1), sampled(shown, seed=2)))
    assert run.first_span == pytest.approx((0, 200), abs=SLOT_S)


def test_a_passage_that_comes_again_in_one_video_is_a_repeat() -> None:
    jingle = film(1, 40)
    shown = np.concatenate([film(2, 50), jingle, film(3, 100), jingle, film(4, 30)])
    [run] = runs_in(of(sampled(shown, seed=1)))
    assert run.is_repeat
    assert run.first_span == pytest.approx((50, 90), abs=SLOT_S)
    assert run.second_span == pytest.approx((190, 230), abs=SLOT_S)


def test_a_copy_that_was_cut_in_the_middle_is_two_runs() -> None:
    shown = film(1, 300)
    shortened = np.concatenate([shown[: int(120 / FRAME_S)], shown[int(180 / FRAME_S) :]])
    found = runs_in(of(sampled(shown, seed=1), sampled(shortened, seed=2)))
    offsets = sorted(run.second_span[0] - run.first_span[0] for run in found)
    assert offsets == pytest.approx([-60, 0], abs=SLOT_S)


def test_runs_shorter_than_told_are_left_out() -> None:
    clip = film(1, 40)
    slots = of(
        sampled(np.concatenate([film(2, 60), clip]), seed=1),
        sampled(np.concatenate([clip, film(3, 60)]), seed=2),
    )
    assert len(runs_in(slots)) == 1
    assert runs_in(slots, Limits(least_s=60.0)) == []


@given(st.integers(0, 999), st.integers(3, 30), st.floats(0.9, 1.1))
def test_points_on_a_line_are_one_chain_and_fit_it(seed: int, count: int, rate: float) -> None:
    chance = np.random.default_rng(seed)
    x = np.cumsum(chance.uniform(2, 8, count))
    y = rate * x + 17.0
    slack = np.full(count, 5.0)
    mixed = chance.permutation(count)
    chain = heaviest_chain(x[mixed], y[mixed], slack, np.ones(count), 20.0, 0.15)
    assert (mixed[chain] == np.arange(count)).all()
    line, inliers = fitted_line(x, y, slack, 0.15)
    assert inliers.all()
    assert max(abs(line.at(at) - other) for at, other in zip(x, y, strict=True)) < 5.0
    assert supported(np.zeros(count, int), x, y, 3, 20.0, 40.0).all()


def test_a_chain_goes_forward_in_both_videos() -> None:
    x = np.array([0.0, 5.0, 10.0, 15.0])
    backwards = heaviest_chain(x, x[::-1].copy(), np.full(4, 5.0), np.ones(4), 20.0, 0.15)
    assert len(backwards) == 1


def test_changes_that_go_together_correlate_and_still_ones_do_not() -> None:
    chance = np.random.default_rng(0)
    changes = chance.standard_normal((40, SIZE))
    assert correlation(changes, changes + 0.1 * chance.standard_normal(changes.shape)) > 0.9
    look = 10 * chance.standard_normal(SIZE)
    stills = [look + chance.standard_normal((40, SIZE)) for _ in range(2)]
    assert abs(correlation(*stills)) < 0.2
    assert correlation(changes, np.repeat(look[None], 40, axis=0)) == 0.0
