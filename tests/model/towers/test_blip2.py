from __future__ import annotations

import pytest
import torch
from PIL import Image
from support.models import edit_json, edit_weights, random_frames
from transformers import AutoImageProcessor, Blip2ForImageTextRetrieval

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError, quiet_transformers
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.towers.blip2 import RetrievalModel, check_same_vision
from malmm.model.towers.registry import open_tower

TEXTS = ["a man on a bicycle", "rain", "x", "Two dogs, one of them asleep."]


def companion(directory):
    return open_tower(str(directory / "retrieval"))


def instructblip(directory):
    return Checkpoint.open(str(directory), model_types=("instructblip",))


@pytest.fixture(scope="module", params=[0, 1])
def directory(request, checkpoint_directory):
    return checkpoint_directory("decoder", request.param)


@pytest.fixture(scope="module")
def retrieval(directory):
    return RetrievalModel.load(companion(directory), instructblip=instructblip(directory))


@pytest.fixture(scope="module")
def official(directory):
    with quiet_transformers():
        return Blip2ForImageTextRetrieval.from_pretrained(directory / "retrieval").eval()


@pytest.fixture(scope="module")
def slots_and_pixels(directory):
    """One-frame memories of InstructBLIP's encoder, and the same pictures for the other model."""
    frames = random_frames(11, 5)
    encoder = Encoder.load(instructblip(directory))
    memories = [encoder.encode([frame[None]], [["a"]], MemorySettings())[0].memory for frame in frames]
    processor = AutoImageProcessor.from_pretrained(directory / "retrieval")
    pictures = [Image.fromarray(frame) for frame in frames]
    pixels = processor(pictures, return_tensors="pt")["pixel_values"]
    return torch.cat([memory.tokens for memory in memories]), pixels


def test_a_slot_of_one_frame_scores_as_the_picture_does(retrieval, official, slots_and_pixels):
    slots, pixels = slots_and_pixels
    vectors, words = retrieval.slot_vectors(slots), retrieval.text_vectors(TEXTS)
    assert vectors.shape == (5, 8, retrieval.vector_size)
    ours = (vectors @ words.T).amax(dim=1)
    batch = retrieval.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = official(pixels, batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(ours, expected.logits_per_image, rtol=0, atol=2e-5)
    torch.testing.assert_close(vectors, expected.image_embeds, rtol=0, atol=2e-5)
    torch.testing.assert_close(words, expected.text_embeds, rtol=0, atol=2e-5)
    assert ours.std() > 1e-3


def test_matching_is_the_official_heads(retrieval, official, slots_and_pixels):
    slots, pixels = slots_and_pixels
    slots, pixels = slots[:4], pixels[:4]
    ours = retrieval.match(slots, TEXTS)
    batch = retrieval.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = official(
            pixels, batch["input_ids"], batch["attention_mask"], use_image_text_matching_head=True
        ).logits_per_image
    torch.testing.assert_close(ours, logits.softmax(-1)[:, 1], rtol=0, atol=2e-5)
    alone = torch.cat([retrieval.match(slots[i : i + 1], TEXTS[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(ours, alone, rtol=0, atol=1e-5)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(retrieval, slots_and_pixels):
    slots, _ = slots_and_pixels
    vectors, words = retrieval.slot_vectors(slots), retrieval.text_vectors(TEXTS)
    for unit in (vectors, words):
        torch.testing.assert_close(unit.norm(dim=-1), torch.ones(unit.shape[:-1]))
    torch.testing.assert_close(vectors[2:3], retrieval.slot_vectors(slots[2:3]), rtol=0, atol=1e-5)
    torch.testing.assert_close(words[2:3], retrieval.text_vectors(TEXTS[2:3]), rtol=0, atol=1e-5)


def test_a_merged_slot_maps_like_the_tokens_it_was_merged_from(retrieval, slots_and_pixels):
    slots, _ = slots_and_pixels
    assert (retrieval.scale != 1).all()  # the two models' last layer norms differ
    mapped = slots * retrieval.scale + retrieval.shift
    merged = 0.25 * slots[0] + 0.75 * slots[1]
    torch.testing.assert_close(
        merged * retrieval.scale + retrieval.shift, 0.25 * mapped[0] + 0.75 * mapped[1], rtol=0, atol=1e-4
    )


def test_slots_stored_in_half_precision_will_do(retrieval, slots_and_pixels):
    slots, _ = slots_and_pixels
    exact, half = retrieval.slot_vectors(slots), retrieval.slot_vectors(slots.half())
    assert half.dtype == torch.float32
    assert (exact * half).sum(-1).min() > 0.999


def test_texts_alone_need_no_image_encoder(directory, retrieval, slots_and_pixels):
    alone = RetrievalModel.load(companion(directory))
    assert torch.equal(alone.text_vectors(TEXTS), retrieval.text_vectors(TEXTS))
    with pytest.raises(ValueError, match="loaded for text only"):
        alone.slot_vectors(slots_and_pixels[0])


def test_a_text_beyond_the_position_table_is_cut(retrieval):
    vectors = retrieval.text_vectors(["x" * 5000, "x" * 6000])
    torch.testing.assert_close(vectors[0], vectors[1])


LAYER = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors[LAYER].view(-1)[3:4].add_(0.01), rf"{LAYER} differs"),
        (lambda tensors: tensors.pop(LAYER), rf"tensors are in one only, such as {LAYER}"),
        (
            lambda tensors: tensors.update({LAYER: tensors[LAYER][:-1].contiguous()}),
            rf"{LAYER} differs",
        ),
    ],
)
def test_another_image_encoder_is_refused_with_the_tensors_name(copied, change, message):
    directory = copied()
    edit_weights(directory / "retrieval", change)
    with pytest.raises(CheckpointError, match=message) as refused:
        RetrievalModel.load(companion(directory), instructblip=instructblip(directory))
    assert "retrieval" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"), [("layer_norm_eps", 1e-3), ("num_attention_heads", 2), ("hidden_act", "relu")]
)
def test_the_same_weights_under_another_configuration_are_another_encoder(copied, key, value):
    directory = copied()
    edit_json(
        directory / "retrieval" / "config.json", lambda config: config["vision_config"].update({key: value})
    )
    with pytest.raises(CheckpointError, match=f"{key} is {value!r}, not"):
        check_same_vision(instructblip(directory), companion(directory))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_encoder_published_in_halves_is_the_same(copied, dtype):
    directory = copied()
    edit_weights(
        directory / "retrieval",
        lambda tensors: tensors.update({key: value.to(dtype) for key, value in tensors.items()}),
    )
    check_same_vision(instructblip(directory), companion(directory))
    model = RetrievalModel.load(companion(directory), instructblip=instructblip(directory))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_channel_that_was_scaled_to_nothing_cannot_be_mapped(copied):
    directory = copied()
    edit_weights(directory, lambda tensors: tensors["vision_model.post_layernorm.weight"][3:4].zero_())
    with pytest.raises(CheckpointError, match="scales a visual channel to nothing"):
        RetrievalModel.load(companion(directory), instructblip=instructblip(directory))


def test_unusable_parts_are_named(copied):
    directory = copied()
    edit_weights(directory / "retrieval", lambda tensors: tensors.pop("itm_head.bias"))
    with pytest.raises(CheckpointError, match=r"lacks the tensors itm_head\.bias"):
        RetrievalModel.load(companion(directory))
    edit_weights(
        directory / "retrieval",
        lambda tensors: tensors.update(query_tokens=tensors["query_tokens"][..., :9].contiguous()),
    )
    with pytest.raises(CheckpointError, match=r"query_tokens \[1, 8, 9\], not \[1, Q, 48\]"):
        RetrievalModel.load(companion(directory))
