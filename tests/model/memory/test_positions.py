from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import random_table

from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.positions import FramePositions, TimePositions
from malmm.model.memory.slots import Memory

CHANNELS = 4
SEEDS = st.integers(0, 2**32)
ROWS = st.integers(2, 9)
POLICIES = st.sampled_from(["token", "frame", "average", "fifo", "none"])
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


KINDS = st.sampled_from([TimePositions, FramePositions])


def plain_vectors(table, count, kind=TimePositions):
    """[count, C]: a line between rows that lie evenly from the beginning of the whole to its end.

    By frame number, row i for frame i; where there are more frames than rows, they lie evenly from the first row to the
    last.
    """
    table = table.double().numpy()
    if kind is FramePositions and count <= len(table):
        return table[:count]
    at = (np.arange(count) + 0.5) / count if kind is TimePositions else np.linspace(0, 1, count)
    rows = np.linspace(0, 1, len(table))
    return np.stack([np.interp(at, rows, column) for column in table.T], axis=1)


def positions_of(seed, rows, dtype=torch.float64, kind=TimePositions):
    return kind(random_table(seed, rows, CHANNELS).to(dtype)).requires_grad_(False)


def remember(tokens, length, policy):
    """The memory of frames [T, N, C]."""
    frames, positions, channels = tokens.shape
    bank = Bank(
        rows=1,
        length=length,
        steps=frames,
        positions=positions,
        channels=channels,
        policy=merge_policy(policy),
        device="cpu",
        dtype=tokens.dtype,
    )
    for frame in tokens:
        bank.append(frame[None])
    return Memory.of(bank.finish()[0])


def random_tokens(seed, frames, positions=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(frames, positions, CHANNELS, generator=generator, dtype=torch.float64).to(dtype)


@given(SEEDS, ROWS, st.integers(1, 60), KINDS)
def test_a_frame_has_the_vector_of_its_part_of_the_whole(seed, rows, count, kind):
    positions = positions_of(seed, rows, kind=kind)
    np.testing.assert_allclose(
        positions.of_frames(count).numpy(),
        plain_vectors(positions.weight, count, kind),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 7, 119, 120])
def test_by_frame_number_each_frame_has_its_row_to_the_bit(count, dtype):
    table = random_table(3, 120, CHANNELS).to(dtype)
    assert torch.equal(FramePositions(table.clone()).of_frames(count), table[:count])


def test_more_frames_than_rows_are_spread_over_the_table():
    table = torch.arange(5.0)[:, None]
    placed = FramePositions(table).of_frames(9)
    torch.testing.assert_close(placed[:, 0], torch.arange(9) / 2)
    assert FramePositions(table[:1]).of_frames(4).tolist() == [[0.0]] * 4


@given(SEEDS, ROWS, st.integers(1, 60), KINDS, st.data())
def test_a_run_has_the_mean_of_its_frames(seed, rows, count, kind, data):
    positions = positions_of(seed, rows, kind=kind)
    bounds = st.tuples(st.integers(0, count), st.integers(0, count)).map(sorted).filter(lambda b: b[0] < b[1])
    runs = data.draw(st.lists(bounds, min_size=6, max_size=6))
    first = torch.tensor([begin for begin, _ in runs]).view(2, 3)
    sizes = torch.tensor([end - begin for begin, end in runs]).view(2, 3)
    plain = plain_vectors(positions.weight, count, kind)
    expected = np.stack([plain[begin:end].mean(axis=0) for begin, end in runs]).reshape(2, 3, CHANNELS)
    np.testing.assert_allclose(positions.of_runs(first, sizes, count).numpy(), expected, rtol=0, atol=1e-12)
    assert torch.equal(positions.of_runs(first, sizes.float(), count), positions.of_runs(first, sizes, count))


@given(SEEDS, st.integers(1, 30), st.integers(1, 5))
def test_a_table_stretches(seed, count, times):
    """At so many times the frames a second, the same stretch of time has the same vector, on a straight line."""
    positions = positions_of(seed, 2)
    one = positions.of_frames(count)
    first = torch.arange(count) * times
    many = positions.of_runs(first, torch.full((count,), times), count * times)
    torch.testing.assert_close(many, one, rtol=0, atol=1e-12)


def test_a_long_whole_is_as_exact_as_a_short_one():
    positions = positions_of(0, 64, torch.float32)
    count = 200_000
    plain = plain_vectors(positions.weight, count)
    first = torch.tensor([0, 99_999, 199_990])
    sizes = torch.tensor([200_000, 3, 10])
    expected = np.stack(
        [plain[f : f + s].mean(0) for f, s in zip(first.tolist(), sizes.tolist(), strict=True)]
    )
    ours = positions.of_runs(first, sizes, count)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=80)
@given(
    SEEDS,
    ROWS,
    st.integers(1, 25),
    st.integers(0, 6),
    POLICIES,
    st.sampled_from([torch.float64, torch.float32]),
    KINDS,
)
def test_what_is_left_without_positions_is_the_mean_of_what_was_seen(
    seed, rows, frames, length, policy, dtype, kind
):
    """Whatever a bank merged: it chose by tokens with positions, and provenance says which frames it chose."""
    positions = positions_of(seed, rows, dtype, kind)
    seen = random_tokens(seed, frames, dtype=dtype)
    held = remember(seen + positions.of_frames(frames)[:, None], length, policy)
    left = positions.removed(held)
    expected = np.empty(held.tokens.shape)
    for slot in range(len(held)):
        for n in range(seen.shape[1]):
            begin = int(held.first[slot, n])
            expected[slot, n] = (
                seen[begin : begin + int(held.sizes[slot, n]), n].double().numpy().mean(axis=0)
            )
    np.testing.assert_allclose(left.tokens.double().numpy(), expected, rtol=0, atol=TOLERANCE[dtype])
    assert left.tokens.dtype == dtype
    assert torch.equal(left.first, held.first)
    assert torch.equal(left.sizes, held.sizes)
    assert left.appended == frames


@given(SEEDS, ROWS, st.integers(1, 25), st.integers(1, 6), POLICIES)
def test_adding_undoes_removing(seed, rows, frames, length, policy):
    positions = positions_of(seed, rows)
    memory = remember(random_tokens(seed, frames), length, policy)
    for there_and_back in (
        positions.added(positions.removed(memory)),
        positions.removed(positions.added(memory)),
    ):
        torch.testing.assert_close(there_and_back.tokens, memory.tokens, rtol=0, atol=1e-12)


@given(SEEDS, ROWS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 9), KINDS)
def test_a_part_of_a_whole_has_the_vectors_that_it_has_in_the_whole(seed, rows, counts, length, kind):
    positions = positions_of(seed, rows, kind=kind)
    total = sum(counts)
    plain = plain_vectors(positions.weight, total, kind)
    before = 0
    for count in counts:
        memory = remember(random_tokens(seed + count, count), length, "token")
        placed = positions.added(memory, before=before, total=total)
        for slot in range(len(memory)):
            for n in range(memory.tokens.shape[1]):
                begin = before + int(memory.first[slot, n])
                mean = plain[begin : begin + int(memory.sizes[slot, n])].mean(axis=0)
                np.testing.assert_allclose(
                    placed.tokens[slot, n].numpy(), memory.tokens[slot, n].numpy() + mean, rtol=0, atol=1e-12
                )
        before += count


def test_a_table_of_zeros_changes_nothing():
    positions = TimePositions(torch.zeros(5, CHANNELS))
    memory = remember(random_tokens(3, 12, dtype=torch.float32), 4, "token")
    assert torch.equal(positions.added(memory, before=3, total=20).tokens, memory.tokens)
    assert torch.equal(positions.removed(memory).tokens, memory.tokens)
    assert not positions.of_frames(7).any()


def test_stored_halves_get_positions_in_full():
    positions = positions_of(1, 5, torch.float32)
    memory = Memory.stored(
        torch.ones(3, 2, CHANNELS, dtype=torch.float16), torch.ones(3, 2, dtype=torch.int32), 3
    )
    placed = positions.added(memory).tokens
    assert placed.dtype == torch.float32
    torch.testing.assert_close(placed, 1 + positions.of_frames(3)[:, None].expand(-1, 2, -1))


def test_a_table_can_be_trained():
    positions = TimePositions(random_table(0, 3, CHANNELS).float())
    assert list(positions.state_dict()) == ["weight"]
    positions.of_frames(3).sum().backward()
    # the frames lie at places 1/3, 1 and 5/3 of rows 0 to 2
    expected = torch.tensor([2 / 3, 1 / 3 + 1 + 1 / 3, 2 / 3])[:, None].expand(-1, CHANNELS)
    torch.testing.assert_close(positions.weight.grad, expected)
    positions.zero_grad()
    positions.of_runs(torch.tensor([0]), torch.tensor([3]), 3).sum().backward()
    torch.testing.assert_close(positions.weight.grad, expected / 3)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (0, 4), (3, 0), (2, 3, 4)])
def test_what_is_no_table_is_refused(shape):
    with pytest.raises(ValueError, match=r"it must be \[P, C\] with P at least 2"):
        TimePositions(torch.zeros(shape))


def test_frames_that_the_whole_does_not_have_are_refused():
    positions = positions_of(0, 3)
    with pytest.raises(ValueError, match="a whole of 0 frames has no positions"):
        positions.of_frames(0)
    for first, size in ((-1, 2), (3, 3), (6, 1)):
        with pytest.raises(ValueError, match=f"from {first} up to {first + size} in a whole of 5 frames"):
            positions.of_runs(torch.tensor([first]), torch.tensor([size]), 5)
    with pytest.raises(ValueError, match="a run of no frames"):
        positions.of_runs(torch.tensor([1, 2]), torch.tensor([1, 0]), 5)
    memory = remember(random_tokens(0, 6), 3, "token")
    for before, total in ((0, 5), (5, 10), (-1, 10)):
        with pytest.raises(ValueError, match=f"6 frames after {before} others in a whole of {total}"):
            positions.added(memory, before=before, total=total)


def test_no_runs_no_vectors():
    none = torch.zeros(0, 3, dtype=torch.int64)
    assert positions_of(0, 3).of_runs(none, none, 5).shape == (0, 3, CHANNELS)
