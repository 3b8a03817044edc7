"""The policy that joins any two entries: what a slot covers, in the bank, in storage, and over merged segments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import PlainBank

from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.positions import TimePositions
from malmm.model.memory.slots import Memory, Part, merge_memories

SEEDS = st.integers(0, 2**32)


def scenes(seed, frames, positions=3, channels=4):
    """Frames [T, N, C] of scenes that come back, so that what is alike is not adjacent."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(3, positions, channels, generator=generator, dtype=torch.float64)
    shown = torch.randint(0, 3, (frames,), generator=generator)
    noise = torch.randn(frames, positions, channels, generator=generator, dtype=torch.float64)
    return kinds[shown] + 0.1 * noise


def remember(frames, length):
    bank = Bank(
        rows=1,
        length=length,
        steps=len(frames),
        positions=frames.shape[1],
        channels=frames.shape[2],
        policy=merge_policy("episode"),
        device="cpu",
        dtype=torch.float64,
    )
    for frame in frames:
        bank.append(frame[None])
    return Memory.of(bank.finish()[0])


def frames_of(memory):
    """The frames of each slot, from its runs."""
    return [[at for begin, end in runs for at in range(begin, end)] for runs in memory.runs()]


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 25), st.integers(1, 6))
def test_every_frame_is_in_one_slot_which_is_the_mean_of_its_frames(seed, count, length):
    frames = scenes(seed, count)
    memory = remember(frames, length)
    plain = PlainBank(length, "episode")
    for frame in frames.numpy():
        plain.append(frame)
    plain.finish()
    held = frames_of(memory)
    assert [set(own) for own in held] == plain.covers
    assert sorted(itertools.chain(*held)) == list(range(count))
    assert [own[0] for own in held] == sorted(own[0] for own in held)
    assert memory.first.tolist() == [[own[0]] * 3 for own in held]
    for slot, own in enumerate(held):
        assert memory.sizes[slot].tolist() == [len(own)] * 3
        torch.testing.assert_close(memory.tokens[slot], frames[own].mean(0), rtol=0, atol=1e-10)


def test_a_scene_that_comes_back_is_one_slot():
    generator = torch.Generator().manual_seed(1)
    a, b, c = torch.randn(3, 4, 8, generator=generator, dtype=torch.float64)
    memory = remember(torch.stack([a, a, b, b, a, c, b, a]), 3)
    assert memory.runs() == [[(0, 2), (4, 5), (7, 8)], [(2, 4), (6, 7)], [(5, 6)]]
    spans = memory.spans([float(t) for t in range(8)], 0.0, 8.5)
    assert spans[0].parts == (Part(0.0, 2.0, 2), Part(4.0, 5.0, 1), Part(7.0, 8.5, 1))
    assert [(span.start_s, span.end_s, span.frame_count) for span in spans] == [
        (0.0, 8.5, 4),
        (2.0, 7.0, 3),
        (5.0, 6.0, 1),
    ]
    assert [span.timestamp_s for span in spans] == [0.0, 2.0, 5.0]
    torch.testing.assert_close(memory.tokens, torch.stack([a, b, c]), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 25), st.integers(1, 6))
def test_parts_tile_the_segment_and_storage_keeps_all_there_is_to_know(seed, count, length):
    memory = remember(scenes(seed, count), length)
    timestamps = (100 + np.random.default_rng(seed).uniform(0.01, 2, count).cumsum()).tolist()
    spans = memory.spans(timestamps, 100.0, timestamps[-1] + 0.5)
    parts = sorted((part.start_s, part.end_s) for span in spans for part in span.parts or ())
    assert parts[0][0] == 100.0
    assert parts[-1][1] == timestamps[-1] + 0.5
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    assert sum(span.frame_count for span in spans) == count
    for span, following in itertools.pairwise(spans):
        assert span.start_s < following.start_s
        assert span.timestamp_s < following.timestamp_s
    for span in spans:
        assert span.parts is not None
        assert (span.start_s, span.end_s) == (span.parts[0].start_s, span.parts[-1].end_s)
        assert span.timestamp_s == timestamps[span.middle]
    again = Memory.stored(memory.tokens, memory.sizes, count, [span.parts or () for span in spans])
    assert torch.equal(again.owner, memory.owner)
    assert torch.equal(again.first, memory.first)
    assert again.spans(timestamps, 100.0, timestamps[-1] + 0.5) == spans


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 5))
def test_merging_segments_joins_what_their_slots_cover(seed, counts, slots, length):
    frames = scenes(seed, sum(counts))
    memories = [remember(part, slots) for part in frames.split(counts)]
    merged = merge_memories(iter(memories), length=length, policy="episode", slots=slots * len(counts))
    held = frames_of(merged)
    assert sorted(itertools.chain(*held)) == list(range(sum(counts)))
    assert [own[0] for own in held] == sorted(own[0] for own in held)
    assert len(held) <= length
    for slot, own in enumerate(held):
        torch.testing.assert_close(merged.tokens[slot], frames[own].mean(0), rtol=0, atol=1e-10)
        assert merged.sizes[slot].tolist() == [len(own)] * 3
        assert merged.first[slot].tolist() == [own[0]] * 3


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 4), st.integers(2, 5))
def test_a_slot_has_the_mean_position_of_its_frames(seed, count, length, rows):
    generator = torch.Generator().manual_seed(seed)
    positions = TimePositions(torch.randn(rows, 4, generator=generator, dtype=torch.float64))
    memory = remember(scenes(seed, count), length)
    of_frames = positions.of_frames(count + 5)[2 : 2 + count]
    added = positions.added(memory, before=2, total=count + 5).tokens - memory.tokens
    for slot, own in enumerate(frames_of(memory)):
        expected = of_frames[own].mean(0).expand(3, -1)
        torch.testing.assert_close(added[slot], expected.detach(), rtol=0, atol=1e-10)


def test_slots_of_several_runs_are_refused_where_neighbours_are_joined():
    memory = remember(scenes(0, 9), 3)
    with pytest.raises(ValueError, match="cannot be merged by the policy 'token'"):
        merge_memories([memory], length=2)
    with pytest.raises(ValueError, match="1 slots of 2 frames, of a segment of 3"):
        Memory.stored(torch.zeros(1, 2, 4), torch.ones(1, 2), 3, [[Part(0.0, 2.0, 2)]])


def test_memories_of_neighbours_are_merged_by_their_runs():
    bank = Bank(
        rows=1, length=9, steps=4, positions=3, channels=4, policy=merge_policy("frame"), device="cpu",
        dtype=torch.float64,
    )  # fmt: skip
    frames = scenes(3, 4)
    for frame in frames:
        bank.append(frame[None])
    merged = merge_memories([Memory.of(bank.finish()[0])], length=2, policy="episode")
    assert sorted(itertools.chain(*frames_of(merged))) == [0, 1, 2, 3]
