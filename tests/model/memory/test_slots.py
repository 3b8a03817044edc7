from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import BOUNDED, MERGING, PlainBank

from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.slots import Memory, merge_memories


def remember(seed, frames, length, policy="token", positions=5, channels=4):
    generator = torch.Generator().manual_seed(seed)
    bank = Bank(
        rows=1,
        length=length,
        steps=frames,
        positions=positions,
        channels=channels,
        policy=merge_policy(policy),
        device="cpu",
        dtype=torch.float64,
    )
    for _ in range(frames):
        bank.append(torch.randn(1, positions, channels, generator=generator, dtype=torch.float64))
    return Memory.of(bank.finish()[0])


SEEDS = st.integers(0, 2**32)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 25), st.integers(1, 6), st.sampled_from([*MERGING, "none"]), st.integers(1, 6))
def test_spans_tile_the_segment(seed, frames, length, policy, positions):
    memory = remember(seed, frames, length, policy, positions)
    steps = np.random.default_rng(seed).uniform(0.01, 2, frames)
    timestamps = (100 + steps.cumsum()).tolist()
    start_s, end_s = 100.0, timestamps[-1] + 0.5
    spans = memory.spans(timestamps, start_s, end_s)
    assert len(spans) == len(memory)
    assert spans[0].start_s == start_s
    assert spans[-1].end_s == end_s
    assert sum(span.frame_count for span in spans) == frames
    for span, following in itertools.pairwise(spans):
        assert span.end_s == following.start_s == timestamps[following.first]
        assert span.first + span.frame_count == following.first
    for span in spans:
        assert span.frame_count >= 1
        assert span.start_s < span.end_s
        assert span.first <= span.middle < span.first + span.frame_count
        assert span.timestamp_s == timestamps[span.middle]
        assert span.start_s <= span.timestamp_s < span.end_s


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 25), st.integers(1, 6))
def test_whole_frames_have_the_spans_of_every_position(seed, frames, length):
    memory = remember(seed, frames, length, "frame")
    assert [span.first for span in memory.spans(range(frames), 0, frames)] == memory.first[:, 0].tolist()
    assert (memory.first == memory.first[:, :1]).all()


def test_where_frames_were_forgotten_the_first_slot_begins_at_its_own():
    spans = remember(1, 10, 4, "fifo").spans([float(t) for t in range(10)], 0.0, 10.0)
    assert [(span.start_s, span.end_s) for span in spans] == [(6, 7), (7, 8), (8, 9), (9, 10)]


def test_a_slot_begins_where_the_lower_median_of_its_positions_does():
    first = torch.tensor([[0, 0, 0, 0], [1, 2, 4, 5], [3, 3, 6, 6]])
    memory = Memory(torch.zeros(3, 4, 2), torch.ones(3, 4), first, 8)
    spans = memory.spans([10.0 + t for t in range(8)], 9.5, 18.0)
    assert [(span.first, span.frame_count, span.middle) for span in spans] == [
        (0, 2, 0),
        (2, 1, 2),
        (3, 5, 5),
    ]
    assert [(span.start_s, span.end_s, span.timestamp_s) for span in spans] == [
        (9.5, 12.0, 10.0),
        (12.0, 13.0, 12.0),
        (13.0, 18.0, 15.0),
    ]


def test_timestamps_must_be_those_of_the_frames():
    with pytest.raises(ValueError, match="3 timestamps for a memory of 10 frames"):
        remember(1, 10, 4).spans([0.0, 1.0, 2.0], 0.0, 10.0)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 25), st.integers(0, 6), st.sampled_from([*BOUNDED, "none"]))
def test_storage_keeps_all_there_is_to_know(seed, frames, length, policy):
    memory = remember(seed, frames, length, policy)
    again = Memory.stored(memory.tokens, memory.sizes, frames)
    assert torch.equal(again.first, memory.first)
    assert again.first.dtype == torch.int64
    assert again.appended == memory.appended
    timestamps = [float(t) for t in range(frames)]
    assert again.spans(timestamps, 0, frames) == memory.spans(timestamps, 0, frames)


def test_storage_knows_that_the_oldest_frames_were_forgotten():
    again = Memory.stored(torch.zeros(3, 2, 4), torch.tensor([[1, 1], [1, 2], [2, 1]]), 9)
    assert again.first.tolist() == [[5, 5], [6, 6], [7, 8]]
    assert again.appended == 9
    with pytest.raises(ValueError, match="slots that hold 4 frames, of a segment of 3"):
        Memory.stored(torch.zeros(3, 2, 4), torch.tensor([[1, 1], [1, 2], [2, 1]]), 3)


@settings(max_examples=50, deadline=None)
@given(
    SEEDS,
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(BOUNDED),
)
def test_merging_memories_is_the_same_compression_of_their_slots(seed, shapes, length, policy):
    memories = [remember(seed + i, frames, slots, policy) for i, (frames, slots) in enumerate(shapes)]
    plain = PlainBank(length, policy)
    before = 0
    for memory in memories:
        for slot in range(len(memory)):
            plain.append(
                memory.tokens[slot].numpy(), memory.sizes[slot].numpy(), memory.first[slot].numpy() + before
            )
        before += memory.appended
    plain.finish()
    merged = merge_memories(memories, length=length, policy=policy)
    np.testing.assert_allclose(merged.tokens.numpy(), plain.tokens, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(merged.sizes.numpy(), plain.sizes)
    np.testing.assert_array_equal(merged.first.numpy(), plain.first)
    streamed = merge_memories(
        iter(memories), length=length, policy=policy, slots=1 + sum(len(memory) for memory in memories)
    )
    assert torch.equal(streamed.tokens, merged.tokens)
    assert torch.equal(streamed.first, merged.first)
    assert merged.first.dtype == torch.int64
    assert merged.appended == before == sum(frames for frames, _ in shapes)
    if policy != "fifo":
        ends = torch.cat([merged.first[1:], torch.full_like(merged.first[:1], merged.appended)])
        assert torch.equal(merged.sizes, (ends - merged.first).double())


@settings(max_examples=40, deadline=None)
@given(
    SEEDS, st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 6), st.sampled_from(MERGING)
)
def test_merging_what_lost_nothing_is_the_memory_of_the_whole(seed, counts, length, policy):
    whole = remember(seed, sum(counts), sum(counts), policy)
    bounds = np.cumsum([0, *counts])
    parts = [
        Memory.stored(whole.tokens[begin:end], whole.sizes[begin:end], int(end - begin))
        for begin, end in itertools.pairwise(bounds)
    ]
    merged, expected = (
        merge_memories(parts, length=length, policy=policy),
        remember(seed, sum(counts), length, policy),
    )
    assert torch.equal(merged.tokens, expected.tokens)
    assert torch.equal(merged.sizes, expected.sizes)
    assert torch.equal(merged.first, expected.first)
    assert merged.appended == expected.appended


def test_what_segments_forgot_stays_a_gap_when_they_are_merged():
    merged = merge_memories([remember(1, 6, 2, "fifo"), remember(2, 5, 2, "fifo")], length=3, policy="fifo")
    assert merged.first[:, 0].tolist() == [5, 9, 10]
    assert merged.sizes[:, 0].tolist() == [1, 1, 1]
    assert merged.appended == 11


def test_one_memory_that_fits_comes_back_as_it_is():
    memory = remember(3, 12, 4)
    merged = merge_memories([memory], length=4)
    assert torch.equal(merged.tokens, memory.tokens)
    assert torch.equal(merged.sizes, memory.sizes)
    assert torch.equal(merged.first, memory.first)
    assert merged.appended == memory.appended


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_memories_stored_in_half_precision_are_merged_in_single(dtype):
    """In half, the cosines of like frames are equal, and the first pair would win whatever it is."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 6, 32, generator=generator)
    tokens = (base + 0.03 * torch.randn(12, 6, 32, generator=generator).cumsum(0)).to(dtype)
    memory = Memory.stored(tokens, torch.ones(12, 6), 12)
    expected = merge_memories([Memory.stored(tokens.double(), torch.ones(12, 6), 12)], length=4)
    merged = merge_memories([memory], length=4)
    assert torch.equal(merged.sizes, expected.sizes.float())
    torch.testing.assert_close(merged.tokens.double(), expected.tokens, rtol=0, atol=1e-5)


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match="no memories to merge"):
        merge_memories([], length=3)
    with pytest.raises(ValueError, match="different token shapes"):
        merge_memories([remember(0, 2, 2), remember(0, 2, 2, positions=3)], length=3)


def test_printing_a_memory_shows_shapes():
    assert repr(remember(0, 9, 4)) == "Memory(tokens=(4, 5, 4), appended=9)"


@settings(max_examples=25, deadline=None)
@given(
    SEEDS,
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.sampled_from([*BOUNDED, "none"]),
    st.integers(1, 4),
)
def test_frame_weights_are_the_means_over_spans_and_what_travels_along(
    seed, lengths, length, policy, positions
):
    """Where whole frames are joined, each frame's own number, carried through every merge, comes to its weight."""
    if policy == "fifo":
        lengths = lengths[:1]
    frames = sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    memories = []
    before = 0
    for count in lengths:
        bank = Bank(
            rows=1,
            length=length,
            steps=count,
            positions=positions,
            channels=2 * frames,
            compared=frames,
            policy=merge_policy(policy),
            device="cpu",
            dtype=torch.float64,
        )
        for frame in range(count):
            own = torch.eye(frames, dtype=torch.float64)[before + frame].expand(1, positions, -1)
            seen = torch.randn(1, positions, frames, generator=generator, dtype=torch.float64)
            bank.append(torch.cat([seen, own], dim=-1))
        held = Memory.of(bank.finish()[0])
        tokens = held.tokens.unflatten(-1, (2, frames))
        memories.append(Memory(tokens, held.sizes, held.first, held.appended, held.owner))
        before += count
    firsts = [sum(lengths[:place]) for place in range(len(lengths))]
    merged = merge_memories(memories, length=length, policy=policy)
    for first, memory in zip([*firsts, 0], [*memories, merged], strict=True):
        weights = memory.frame_weights()
        if policy != "token":
            carried = memory.tokens[:, :, 1].mean(1)
            torch.testing.assert_close(weights, carried[:, first : first + memory.appended])
            continue
        for row, span in zip(weights, memory.spans(range(memory.appended), 0, memory.appended), strict=True):
            expected = torch.zeros(memory.appended, dtype=torch.float64)
            expected[span.first : span.first + span.frame_count] = 1 / span.frame_count
            torch.testing.assert_close(row, expected)
