from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models import (
    edit_json,
    edit_weights,
    plain_pass,
    random_clips,
    random_frames,
)

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.family import half_precision
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import merge_memories

PROMPTS = ["a", "What is the person doing?", "Describe.", "", "Is it raining, and if so where?"]
exactly = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


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
    frames = random_clips(data.draw(st.integers(0, 99)), lengths)
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
    videos = random_clips(seed, lengths)
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
    frames = random_clips(6, [7, 2, 5])
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
    frames = random_clips(9, [4, 2, 5])
    prompts = [["a"], ["bcd"], ["e"]]
    chosen = MemorySettings(length=5)
    online = exact_encoder.encode(frames, prompts, chosen)
    replayed = exact_encoder.replay([encoded.memory for encoded in online], prompts, chosen)
    for a, b in zip(replayed, online, strict=True):
        torch.testing.assert_close(a, b.query_output, rtol=0, atol=1e-10)


def test_replay_needs_no_vision_encoder_and_takes_stored_halves(opened, encoder):
    frames = random_clips(9, [12, 3])
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
    frames = random_clips(0, [2, 3])
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
