"""Positions: each frame's place in time, in the online pass, in replay and over merged segments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import (
    give_positions,
    plain_pass,
    random_clips,
    random_frames,
    random_table,
    with_table,
)

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.positions import FramePositions, TimePositions
from malmm.model.memory.slots import Memory, merge_memories

PROMPTS = ["a", "What is the person doing?", "Describe."]
exactly = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = {TimePositions: "time_positions", FramePositions: "frame_positions"}


def plain_positions(encoder, count):
    """[count, 1, C]"""
    at = np.arange(count) / count + 0.5 / count
    table = encoder.positions.weight.numpy()
    rows = np.linspace(0, 1, len(table))
    return torch.from_numpy(np.stack([np.interp(at, rows, column) for column in table.T], axis=1))[:, None]


@pytest.mark.parametrize("policy", ["token", "frame", "average", "fifo", "none"])
@pytest.mark.parametrize("visual", [True, False])
def test_the_plain_reference_sees_the_place_of_every_frame(placing_encoder, policy, visual):
    frames = random_frames(4, 8)
    with torch.inference_mode():
        seen = placing_encoder.vision(torch.from_numpy(frames)).clone()
    (encoded,) = placing_encoder.encode(
        [frames], [PROMPTS], MemorySettings(length=3, policy=policy, visual=visual)
    )
    qformer = placing_encoder.qformer
    for place, prompt in enumerate(PROMPTS):
        outputs, bank = plain_pass(
            qformer.qformer.state_dict(),
            qformer.qformer.config,
            qformer.query_tokens[0],
            seen + plain_positions(placing_encoder, 8),
            torch.tensor(placing_encoder.tokenizer(prompt)["input_ids"]),
            length=3,
            policy=policy,
            visual=visual,
        )
        expected = outputs[-1, : qformer.query_tokens.shape[1]]
        torch.testing.assert_close(encoded.query_output[place], expected, rtol=0, atol=1e-10)
    bank.finish()
    memory = encoded.memory
    np.testing.assert_array_equal(memory.first.numpy(), bank.first)
    for slot in range(len(memory)):
        for n in range(seen.shape[1]):
            begin = int(bank.first[slot, n])
            mean = seen[begin : begin + int(bank.sizes[slot, n]), n].mean(0)
            torch.testing.assert_close(memory.tokens[slot, n], mean, rtol=0, atol=1e-10)


def test_the_order_of_frames_is_seen_by_what_has_positions_alone(exact_encoder, placing_encoder):
    """Without banks of queries and without merging, nothing else tells one order from another."""
    frames = random_frames(4, 8)
    chosen = MemorySettings(length=8, query=False)
    for encoder, sees in ((exact_encoder, False), (placing_encoder, True)):
        forth, back = (encoder.encode([clip], [["a"]], chosen)[0] for clip in (frames, frames[::-1]))
        difference = (forth.query_output - back.query_output).abs().max()
        assert (difference > 1e-3) if sees else (difference < 1e-10)


def test_replay_puts_frames_in_the_places_they_had(placing_encoder):
    frames = random_clips(9, [4, 2, 5])
    prompts = [["a"], ["bcd"], ["e"]]
    chosen = MemorySettings(length=5)
    online = placing_encoder.encode(frames, prompts, chosen)
    replayed = placing_encoder.replay([encoded.memory for encoded in online], prompts, chosen)
    for a, b in zip(replayed, online, strict=True):
        torch.testing.assert_close(a, b.query_output, rtol=0, atol=1e-10)


@exactly
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(["token", "frame", "average", "fifo", "none"]),
    st.integers(0, 99),
)
def test_segments_that_are_merged_take_their_places_in_the_whole(
    placing_encoder, counts, length, policy, seed
):
    """Of segments that lost no frame, the merged memory is the whole video's, as if it had been one segment."""
    video = random_frames(seed, sum(counts))
    parts = np.split(video, np.cumsum(counts)[:-1])
    memories = [
        encoded.memory
        for encoded in placing_encoder.encode(parts, [["a"]] * len(parts), MemorySettings(length=5))
    ]
    chosen = MemorySettings(length=length, policy=policy)
    merged = placing_encoder.merge(memories, chosen)
    (whole,) = placing_encoder.encode([video], [["a"]], chosen)
    torch.testing.assert_close(merged.tokens, whole.memory.tokens, rtol=0, atol=1e-10)
    assert torch.equal(merged.sizes, whole.memory.sizes)
    assert torch.equal(merged.first, whole.memory.first)
    assert merged.appended == whole.memory.appended == len(video)
    if len(merged) == len(video):
        (replayed,) = placing_encoder.replay([merged], [["a"]], chosen)
        torch.testing.assert_close(replayed, whole.query_output, rtol=0, atol=1e-10)


def test_stored_halves_are_merged_with_positions_in_single(encoder):
    placing = with_table(encoder, random_table(1, 5, encoder.qformer.visual_channels).float())
    memories = [
        encoded.memory
        for encoded in placing.encode(random_clips(3, [9, 6]), [["a"], ["a"]], MemorySettings(length=4))
    ]
    halves = [Memory.stored(memory.tokens.half(), memory.sizes.int(), memory.appended) for memory in memories]
    merged, expected = (placing.merge(parts, MemorySettings(length=8)) for parts in (halves, memories))
    assert merged.tokens.dtype == torch.float32
    torch.testing.assert_close(merged.tokens, expected.tokens, rtol=0, atol=0.01)
    assert torch.equal(merged.first, expected.first)
    with pytest.raises(ValueError, match="no memories to merge"):
        placing.merge([], MemorySettings(length=4))


@pytest.mark.parametrize("policy", ["token", "frame", "average", "fifo"])
def test_a_table_of_zeros_is_as_good_as_none(encoder, policy):
    zero = with_table(encoder, torch.zeros(5, encoder.qformer.visual_channels))
    frames = random_clips(3, [9, 4])
    prompts = [["a", "b"], ["c", "d"]]
    chosen = MemorySettings(length=3, policy=policy)
    ours, expected = (some.encode(frames, prompts, chosen) for some in (zero, encoder))
    for a, b in zip(ours, expected, strict=True):
        assert torch.equal(a.query_output, b.query_output)
        assert torch.equal(a.memory.tokens, b.memory.tokens)
    memories = [encoded.memory for encoded in expected]
    a, b = (some.merge(memories, chosen) for some in (zero, encoder))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.first, b.first)
    assert torch.equal(b.tokens, merge_memories(memories, length=3, policy=policy).tokens)
    for ours, without in zip(
        zero.replay(memories, prompts, chosen), encoder.replay(memories, prompts, chosen), strict=True
    ):
        assert torch.equal(ours, without)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("positions", [TimePositions, FramePositions])
def test_a_checkpoint_may_have_positions(copied, kind, positions):
    directory = copied(kind)
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    without = Encoder.load(checkpoint)
    assert without.positions is None
    table = random_table(2, 7, without.qformer.visual_channels)
    give_positions(directory, table, kind=NAMES[positions])
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    for with_vision in (True, False):
        placing = Encoder.load(checkpoint, with_vision=with_vision)
        assert type(placing.positions) is positions
        assert torch.equal(placing.positions.weight, table.float())
        assert not placing.positions.weight.requires_grad
    LanguageModel.load(checkpoint)
    frames = random_frames(1, 5)
    (expected,) = with_table(without, table.float(), positions).encode(
        [frames], [["a"]], MemorySettings(length=3)
    )
    (ours,) = Encoder.load(checkpoint).encode([frames], [["a"]], MemorySettings(length=3))
    assert torch.equal(ours.query_output, expected.query_output)


@pytest.mark.parametrize("shape", [(1, 48), (4, 47), (48,), (2, 4, 48)])
def test_a_table_of_another_shape_is_refused(copied, shape):
    directory = copied()
    give_positions(directory, torch.zeros(shape))
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    with pytest.raises(CheckpointError) as refused:
        Encoder.load(checkpoint)
    message = str(refused.value)
    assert message.startswith(f"model {str(directory)!r} has tensors of another size: ")
    assert f"time_positions.weight is {list(shape)}, not [P, 48] with P at least 2" in message


def test_two_tables_are_refused(copied):
    directory = copied()
    for kind in NAMES.values():
        give_positions(directory, torch.zeros(4, 48), kind=kind)
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    with pytest.raises(CheckpointError, match=r"has both time_positions\.weight and frame_positions\.weight"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize("rows", [120, 5])
def test_the_plain_reference_sees_frame_numbers(exact_encoder, rows):
    """With as many rows as frames or more, each has its own; beyond, frames are spread over the table."""
    table = random_table(6, rows, exact_encoder.qformer.visual_channels)
    encoder = with_table(exact_encoder, table, FramePositions)
    frames = random_frames(4, 9)
    with torch.inference_mode():
        seen = encoder.vision(torch.from_numpy(frames)).clone()
    placed = table[:9]
    if rows < 9:
        at = [np.interp(np.linspace(0, rows - 1, 9), np.arange(rows), column) for column in table.T.numpy()]
        placed = torch.from_numpy(np.stack(at, axis=1))
    (encoded,) = encoder.encode([frames], [["a"]], MemorySettings(length=3))
    outputs, _ = plain_pass(
        encoder.qformer.qformer.state_dict(),
        encoder.qformer.qformer.config,
        encoder.qformer.query_tokens[0],
        seen + placed[:, None],
        torch.tensor(encoder.tokenizer("a")["input_ids"]),
        length=3,
    )
    expected = outputs[-1, : encoder.qformer.query_tokens.shape[1]]
    torch.testing.assert_close(encoded.query_output[0], expected, rtol=0, atol=1e-10)
