"""Mutually nearest slots, against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.pipeline.duplicates import matching
from malmm.pipeline.duplicates.matching import common_slots, mutual_pairs

SIZE = 6


def slots(seed: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors, videos and times of slots in few looks, so that many are alike."""
    chance = np.random.default_rng(seed)
    video = np.repeat(np.arange(len(lengths)), lengths)
    looks = chance.standard_normal((4, SIZE))
    vectors = looks[chance.integers(4, size=len(video))] + 0.3 * chance.standard_normal((len(video), SIZE))
    times = np.concatenate([np.arange(length) for length in lengths]) * 5.0
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), video, times


def brute(
    vectors: np.ndarray, video: np.ndarray, times: np.ndarray, least: float, apart_s: float
) -> set[tuple[int, int]]:
    """The same by the definition. Within one video: the nearest later slot, and the nearest earlier one."""

    def counts(one: int, other: int) -> bool:
        far = video[one] != video[other] or abs(times[one] - times[other]) >= apart_s
        return one != other and bool(far) and similar[one, other] >= least

    def nearest(one: int, other: int) -> int:
        later = other > one
        rivals = [
            rival
            for rival in np.flatnonzero(video == video[other]).tolist()
            if counts(one, rival) and (rival > one) == later
        ]
        return max(rivals, key=lambda rival: similar[one, rival], default=-1)

    similar = vectors @ vectors.T
    count = len(video)
    return {
        (one, other)
        for one in range(count)
        for other in range(one + 1, count)
        if counts(one, other) and nearest(one, other) == other and nearest(other, one) == one
    }


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 999),
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
    st.sampled_from([3, 7, 64]),
    st.sampled_from([-0.5, 0.5, 0.9]),
)
def test_pairs_are_the_mutually_nearest(seed: int, lengths: list[int], block: int, least: float) -> None:
    vectors, video, times = slots(seed, lengths)
    found = mutual_pairs(vectors, video, times, least=least, apart_s=10.0, block=block)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == brute(
        vectors, video, times, least, 10.0
    )
    assert np.allclose(found.similarity, (vectors[found.first] * vectors[found.second]).sum(1), atol=1e-5)


def test_what_waits_is_thinned_without_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, video, times = slots(3, [30, 30, 30])
    whole = mutual_pairs(vectors, video, times, least=-1.0, apart_s=10.0, block=8)
    monkeypatch.setattr(matching, "_WAITING", 10)
    thinned = mutual_pairs(vectors, video, times, least=-1.0, apart_s=10.0, block=8)
    assert (thinned.first == whole.first).all()
    assert (thinned.second == whole.second).all()


def test_slots_that_are_left_out_have_no_pair() -> None:
    vectors, video, times = slots(4, [20, 20])
    found = mutual_pairs(
        vectors, video, times, least=-1.0, apart_s=1.0, left_out=np.arange(40) % 2 == 0, block=8
    )
    assert len(found)
    assert (found.first % 2 == 1).all()
    assert (found.second % 2 == 1).all()


def test_what_many_videos_show_is_common_and_what_one_shows_is_not() -> None:
    chance = np.random.default_rng(0)
    title = np.eye(SIZE)[0]
    still = np.repeat(np.eye(SIZE)[1][None], 200, axis=0)
    shows = [np.stack([title, chance.standard_normal(SIZE)]) for _ in range(50)]
    vectors = np.concatenate([*shows, still])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    video = np.repeat(np.arange(51), [2] * 50 + [200])
    common = common_slots(vectors, video, least=0.999, most=20, block=32)
    assert common[:100:2].all()
    assert not common[1:100:2].any()
    assert not common[100:].any()
