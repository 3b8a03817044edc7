"""Frames and crops of a training step."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmm.model.training.sampling import crop, middle_frames, random_frames


@given(st.integers(0, 500), st.integers(1, 300), st.integers(1, 120), st.integers(0, 2**31))
def test_each_part_has_one_of_its_frames(first: int, frames: int, count: int, seed: int) -> None:
    last = first + frames - 1
    chosen = random_frames(first, last, count, random.Random(seed))
    middle = middle_frames(first, last, count)
    assert len(chosen) == len(middle) == min(count, frames)
    assert first <= chosen[0]
    assert chosen[-1] <= last
    # Parts differ by one frame at most, so neighbours are never two parts apart, and none is taken twice.
    longest = -(-frames // len(chosen))
    assert all(0 < after - before < 2 * longest for before, after in itertools.pairwise(chosen))
    assert all(abs(a - b) <= longest for a, b in zip(chosen, middle, strict=True))
    if count >= frames:
        assert chosen == middle == tuple(range(first, last + 1))


def test_no_frames_have_no_parts() -> None:
    with pytest.raises(ValueError, match="4 parts of the frames 3 to 2"):
        middle_frames(3, 2, 4)


@given(st.integers(0, 2**31))
def test_a_crop_is_at_least_half_of_a_picture(seed: int) -> None:
    left, upper, right, lower = crop(random.Random(seed))
    assert 0 <= left < right <= 1
    assert 0 <= upper < lower <= 1
    assert (right - left) * (lower - upper) >= 0.5 - 1e-9
    assert 0.74 < (right - left) / (lower - upper) < 1.34
