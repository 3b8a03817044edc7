from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import (
    edit_json,
    edit_weights,
    give_positions,
    plain_pass,
    random_frames,
    random_table,
)

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.family import half_precision
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.positions import FramePositions, TimePositions
from malmm.model.memory.slots import Memory, merge_memories

PROMPTS = ["a", "What is the person doing?", "Describe.", "", "Is it raining, and if so where?"]
NAMES = {TimePositions: "time_positions", FramePositions: "frame_positions"}
exactly = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def with_table(encoder, table, kind=TimePositions):
    """The same encoder with positions in time."""
    positions = kind(table).requires_grad_(False)
    return Encoder(encoder.vision, encoder.qformer, encoder.tokenizer, positions)


@pytest.fixture(scope="module")
def placing_encoder(exact_encoder):
    """In float64, with positions that matter."""
    return with_table(exact_encoder, random_table(5, 4, exact_encoder.qformer.visual_channels))


def clips(seed, lengths):
    return [random_frames(seed % 2**32 + place, length) for place, length in enumerate(lengths)]


@exactly
@given(st.data())
def test_a_batch_of_segments_gives_what_each_gives_alone(exact_encoder, placing_encoder, data):
    chosen_encoder = data.draw(st.sampled_from([exact_encoder, placing_encoder]))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    count = data.draw(st.integers(1, 3))
    prompts = [[data.draw(st.sampled_from(PROMPTS)) for _ in range(count)] for _ in lengths]
    chosen = MemorySettings(
        length=data.draw(st.integers(1, 4)),
        policy=data.draw(st.sampled_from(["token", "frame", "fifo", "average", "none"])),
        visual=data.draw(st.booleans()),
        query=data.draw(st.booleans()),
    )
    frames = clips(data.draw(st.integers(0, 99)), lengths)
    together = chosen_encoder.encode(frames, prompts, chosen, vision_batch=data.draw(st.integers(1, 20)))
    for clip, of_segment, encoded in zip(frames, prompts, together, strict=True):
        (alone,) = chosen_encoder.encode([clip], [of_segment], chosen)
        torch.testing.assert_close(encoded.query_output, alone.query_output, rtol=0, atol=1e-10)
        torch.testing.assert_close(encoded.memory.tokens, alone.memory.tokens, rtol=0, atol=1e-10)
        assert torch.equal(encoded.memory.sizes, alone.memory.sizes)
        assert torch.equal(encoded.memory.first, alone.memory.first)
        assert encoded.memory.appended == alone.memory.appended == len(clip)


@pytest.mark.parametrize("visual", [True, False])
@pytest.mark.parametrize("query", [True, False])
def test_with_each_bank_on_and_off_it_is_the_plain_reference(exact_encoder, visual, query):
    frames = random_frames(4, 8)
    with torch.inference_mode():
        tokens = exact_encoder.vision(torch.from_numpy(frames)).clone()
    chosen = MemorySettings(length=3, visual=visual, query=query)
    (encoded,) = exact_encoder.encode([frames], [PROMPTS], chosen)
    qformer = exact_encoder.qformer
    for place, prompt in enumerate(PROMPTS):
        outputs, bank = plain_pass(
            qformer.qformer.state_dict(),
            qformer.qformer.config,
            qformer.query_tokens[0],
            tokens,
            torch.tensor(exact_encoder.tokenizer(prompt)["input_ids"]),
            length=3,
            visual=visual,
            query=query,
        )
        expected = outputs[-1, : qformer.query_tokens.shape[1]]
        torch.testing.assert_close(encoded.query_output[place], expected, rtol=0, atol=1e-10)
    bank.finish()
    torch.testing.assert_close(encoded.memory.tokens, torch.from_numpy(bank.tokens), rtol=0, atol=1e-10)


def test_each_bank_and_the_order_of_frames_matter(exact_encoder):
    """Otherwise the other tests of this file would say little."""
    frames = random_frames(4, 8)
    outputs = [
        exact_encoder.encode([clip], [["a"]], MemorySettings(length=3, visual=visual, query=query))[0]
        for clip in (frames, frames[::-1])
        for visual in (True, False)
        for query in (True, False)
    ]
    for place, a in enumerate(outputs):
        for b in outputs[:place]:
            assert (a.query_output - b.query_output).abs().max() > 1e-3


@exactly
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(0, 99))
def test_one_video_leaves_nothing_for_the_next(encoder, lengths, seed):
    """Shorter after longer and longer after shorter, bit for bit as in an encoder that saw no other."""
    chosen = MemorySettings(length=3)
    videos = clips(seed, lengths)
    in_a_row = [encoder.encode([video], [["a", "b"]], chosen)[0] for video in videos]
    for video, encoded in zip(videos, in_a_row, strict=True):
        fresh = Encoder(encoder.vision, encoder.qformer, encoder.tokenizer)
        (alone,) = fresh.encode([video], [["a", "b"]], chosen)
        assert torch.equal(encoded.query_output, alone.query_output)
        assert torch.equal(encoded.memory.tokens, alone.memory.tokens)


def test_a_used_encoder_equals_one_loaded_anew(opened, encoder):
    video, other = random_frames(7, 9), random_frames(8, 4)
    encoder.encode([other, video], [["x"], ["y"]], MemorySettings(length=2))
    (used,) = encoder.encode([video], [["a"]], MemorySettings(length=3))
    (fresh,) = Encoder.load(opened()).encode([video], [["a"]], MemorySettings(length=3))
    assert torch.equal(used.query_output, fresh.query_output)
    assert torch.equal(used.memory.tokens, fresh.memory.tokens)


def test_several_prompts_in_one_pass_equal_a_pass_each(exact_encoder):
    frames = random_frames(5, 7)
    (together,) = exact_encoder.encode([frames], [PROMPTS], MemorySettings(length=3))
    for place, prompt in enumerate(PROMPTS):
        (alone,) = exact_encoder.encode([frames], [[prompt]], MemorySettings(length=3))
        torch.testing.assert_close(together.query_output[place], alone.query_output[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(together.memory.tokens, alone.memory.tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vision_batch", [1, 3, 7, 1000])
def test_how_many_frames_the_vision_encoder_takes_does_not_matter(encoder, vision_batch):
    frames = clips(6, [7, 2, 5])
    prompts = [["a"], ["bc"], ["d"]]
    expected = encoder.encode(frames, prompts, MemorySettings(length=3))
    ours = encoder.encode(frames, prompts, MemorySettings(length=3), vision_batch=vision_batch)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a.query_output, b.query_output, rtol=0, atol=1e-5)
        torch.testing.assert_close(a.memory.tokens, b.memory.tokens, rtol=0, atol=1e-5)


def test_frames_may_be_read_only_and_strided(encoder):
    frames = random_frames(3, 6)
    read_only = frames.copy()
    read_only.flags.writeable = False
    strided = np.repeat(frames, 2, axis=0)[::2]
    expected, *others = (
        encoder.encode([clip], [["a"]], MemorySettings())[0].query_output
        for clip in (frames, read_only, strided)
    )
    assert all(torch.equal(other, expected) for other in others)


def test_replay_steps_over_slots_as_if_they_were_frames(exact_encoder):
    """With no more frames than slots nothing was merged, so a replay is the online pass."""
    frames = clips(9, [4, 2, 5])
    prompts = [["a"], ["bcd"], ["e"]]
    chosen = MemorySettings(length=5)
    online = exact_encoder.encode(frames, prompts, chosen)
    replayed = exact_encoder.replay([encoded.memory for encoded in online], prompts, chosen)
    for a, b in zip(replayed, online, strict=True):
        torch.testing.assert_close(a, b.query_output, rtol=0, atol=1e-10)


def test_replay_needs_no_vision_encoder_and_takes_stored_halves(opened, encoder):
    frames = clips(9, [12, 3])
    prompts = [["a", "b"], ["cd", "e"]]
    online = encoder.encode(frames, prompts, MemorySettings(length=4))
    memories = [encoded.memory for encoded in online]
    blind = Encoder.load(opened(), with_vision=False)
    expected = encoder.replay(memories, prompts, MemorySettings(length=4))
    for a, b in zip(blind.replay(memories, prompts, MemorySettings(length=4)), expected, strict=True):
        assert torch.equal(a, b)
    halves = [
        type(memory)(memory.tokens.half(), memory.sizes, memory.first, memory.appended) for memory in memories
    ]
    for a, b in zip(blind.replay(halves, prompts, MemorySettings(length=4)), expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)
    whole = merge_memories(halves, length=4)
    assert blind.replay([whole], [["a"]], MemorySettings(length=4))[0].shape == (1, 8, 48)
    with pytest.raises(ValueError, match="without its vision encoder"):
        blind.encode(frames, prompts, MemorySettings())


def test_what_cannot_be_encoded_is_refused(encoder):
    frames = clips(0, [2, 3])
    for wrong in ([frames[0], frames[1][:0]], []):
        with pytest.raises(ValueError, match="a segment without frames cannot be encoded"):
            encoder.encode(wrong, [["a"]] * len(wrong), MemorySettings())
    for prompts in ([["a"], ["b", "c"]], [[], []]):
        with pytest.raises(ValueError, match="same number of prompts"):
            encoder.encode(frames, prompts, MemorySettings())
    for prompts in ([["a"]], [["a"]] * 3):
        with pytest.raises(ValueError, match="2 segments and the prompts of"):
            encoder.encode(frames, prompts, MemorySettings())
    with pytest.raises(ValueError, match="56, 56, 3"):
        encoder.encode([np.zeros((1, 28, 28, 3), np.uint8)], [["a"]], MemorySettings())
    with pytest.raises(ValueError, match="a memory without slots cannot be replayed"):
        encoder.replay([], [], MemorySettings())
    with pytest.raises(ValueError, match="this Q-Former takes at most 512"):
        encoder.encode(frames[:1], [["x" * 511]], MemorySettings())


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
    frames = clips(9, [4, 2, 5])
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
        for encoded in placing.encode(clips(3, [9, 6]), [["a"], ["a"]], MemorySettings(length=4))
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
    frames = clips(3, [9, 4])
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


@pytest.mark.parametrize("epsilon", [None, 1e-5, 0.5])
def test_the_last_norm_may_have_an_epsilon_of_its_own(copied, epsilon):
    directory = copied()
    if epsilon is not None:
        edit_json(directory / "config.json", lambda c: c["vision_config"].update(post_layernorm_eps=epsilon))
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    vision = Encoder.load(checkpoint).vision.model
    usual = vision.config.layer_norm_eps
    assert vision.post_layernorm.eps == (usual if epsilon is None else epsilon)
    assert {layer.layer_norm1.eps for layer in vision.encoder.layers} == {usual}


def test_an_invalid_epsilon_is_refused(copied):
    directory = copied()
    edit_json(directory / "config.json", lambda c: c["vision_config"].update(post_layernorm_eps="small"))
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    with pytest.raises(CheckpointError, match="post_layernorm_eps of 'small'"):
        Encoder.load(checkpoint)


def test_a_foreign_tokenizer_or_query_table_is_refused(copied):
    directory = copied()
    edit_weights(directory, lambda t: t.update(query_tokens=t["query_tokens"][..., :40].contiguous()))
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    with pytest.raises(CheckpointError, match=r"query_tokens \[1, 8, 40\], not \[1, Q, 48\]"):
        Encoder.load(checkpoint)


def test_gradients_are_off_and_modules_in_evaluation(encoder):
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.modules())
    assert half_precision(torch.device("cpu")) == torch.float32
