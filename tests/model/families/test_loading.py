"""Parts of plain families' checkpoints: loaded apart, strictly, under published and newly saved names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import edit_json, edit_weights
from support.tiny_families import FAMILIES, model_class, save_tiny
from torch.utils.flop_counter import FlopCounterMode

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError, quiet_transformers
from malmm.model.checkpoints.resolve import open_models
from malmm.model.families.family import half_precision
from malmm.model.families.registry import FAMILIES as ROWS
from malmm.model.families.registry import family_of, image_size, row_of, token_shape
from malmm.model.footprint import plain_footprints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    made = {}

    def make(family, *, tied=False):
        if (family, tied) not in made:
            made[family, tied] = tmp_path_factory.mktemp(f"{family}-{tied}")
            save_tiny(made[family, tied], family, tied=tied)
        return made[family, tied]

    return make


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_cards_that_emulate_bfloat16_take_float16(native, dtype, monkeypatch):
    """As T4 and V100, of which there is none here."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation
    )
    assert half_precision(torch.device("cuda")) == dtype
    assert half_precision(torch.device("cpu")) == torch.float32


def opened(directory):
    return Checkpoint.open(str(directory), model_types=None)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_has_the_weights_of_the_whole_and_none_of_the_other(saved, family, tied):
    checkpoint = opened(saved(family, tied=tied))
    ours = family_of(checkpoint)
    ours.verify(checkpoint)
    with quiet_transformers():
        whole = model_class(family).from_pretrained(checkpoint.directory, dtype=torch.float32)
    theirs = dict(whole.named_parameters())
    language = dict(ours.load_language(checkpoint).model.named_parameters())
    said = {name for name in theirs if re.search(ours.language_names, name)}
    assert said <= language.keys()
    assert all(torch.equal(language[name], theirs[name]) for name in said)
    assert not [name for name in language if ".layers.0" in name and re.search(ours.vision_names, name)]
    vision = dict(ours.load_encoder(checkpoint).vision.model.named_parameters())
    assert not [name for name in vision if re.search(r"(language_model|text_model).*layers", name)]
    for name, value in vision.items():
        full = f"model.visual.{name}" if family.startswith("qwen") else f"model.{name}"
        if "embed_tokens" not in name:
            assert torch.equal(value, theirs[full])


def test_llavas_published_names_load_too(saved, tmp_path):
    directory = Path(shutil.copytree(saved("llava_onevision"), tmp_path / "published"))
    tensors = load_file(directory / "model.safetensors")
    assert not any(key.startswith("vision_tower.vision_model.") for key in tensors)
    renamed = {
        re.sub(r"^vision_tower\.", "vision_tower.vision_model.", key): value for key, value in tensors.items()
    }
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    family = family_of(opened(directory))
    family.verify(opened(directory))
    new, old = (family.load_encoder(opened(place)).vision for place in (directory, saved("llava_onevision")))
    frames = torch.zeros(2, 42, 42, 3, dtype=torch.uint8)
    assert torch.equal(new(frames), old(frames))
    family.load_language(opened(directory))


def drop(tensors, part):
    del tensors[next(key for key in sorted(tensors) if re.search(part, key))]


def add(tensors, part):
    key = next(key for key in sorted(tensors) if re.search(part, key))
    tensors[key.replace(".0.", ".9.")] = tensors[key].clone()


def cut(tensors, part):
    key = next(key for key in sorted(tensors) if re.search(part, key) and tensors[key].ndim > 1)
    tensors[key] = tensors[key][1:].clone()


VISION, LANGUAGE = (
    r"(vision_tower|vision_model|visual)\..*\.0\.",
    r"(language_model|text_model)\..*layers\.0\.",
)


@pytest.mark.parametrize("change", [drop, add, cut])
@pytest.mark.parametrize("part", [VISION, LANGUAGE], ids=["vision", "language"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_that_is_missing_left_over_or_of_another_size_is_named(
    saved, tmp_path, family, part, change
):
    directory = Path(shutil.copytree(saved(family), tmp_path / "broken"))
    edit_weights(directory, lambda tensors: change(tensors, part))
    checkpoint = opened(directory)
    ours = family_of(checkpoint)
    words = r"lacks the tensors|has unexpected tensors|has tensors of another size"
    with pytest.raises(CheckpointError, match=words):
        ours.verify(checkpoint)
    with pytest.raises(CheckpointError, match=words):
        (ours.load_encoder if part == VISION else ours.load_language)(checkpoint)


def test_a_class_that_no_family_covers_is_refused_with_those_that_are(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_next_video", "vision_config": {}}))
    with pytest.raises(CheckpointError) as refused:
        open_models(str(tmp_path))
    for row in ROWS.values():
        assert row.name in str(refused.value)
    assert "llava_next_video" in str(refused.value)


def test_a_checkpoint_without_a_chat_template_is_refused(saved, tmp_path):
    directory = Path(shutil.copytree(saved("qwen3_vl"), tmp_path / "copy"))
    (directory / "chat_template.jinja").unlink()
    checkpoint = opened(directory)
    with pytest.raises(CheckpointError, match="has no chat template"):
        family_of(checkpoint).verify(checkpoint)


def test_another_models_tokenizer_is_refused(saved, tmp_path):
    directory = Path(shutil.copytree(saved("smolvlm"), tmp_path / "copy"))
    tokenizer = opened(directory).tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(9)])
    tokenizer.save_pretrained(directory)
    with pytest.raises(CheckpointError, match="the tokenizer is another model's"):
        family_of(opened(directory)).verify(opened(directory))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_without_a_part_is_refused(saved, tmp_path, family):
    directory = Path(shutil.copytree(saved(family), tmp_path / "copy"))
    edit_json(directory / "config.json", lambda config: config.pop("text_config"))
    with pytest.raises(CheckpointError, match="has no text_config"):
        open_models(str(directory))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_table_says_of_slots_is_what_the_encoder_makes(saved, family):
    checkpoint = opened(saved(family))
    vision = family_of(checkpoint).load_encoder(checkpoint).vision
    side = image_size(checkpoint)
    tokens = vision(torch.zeros(2, side, side, 3, dtype=torch.uint8))
    shape = tuple(tokens.shape[1:])
    assert token_shape(checkpoint) == (shape if shape[1] > 1 else (shape[0], shape[2]))
    assert row_of(checkpoint).licence == "Apache-2.0"
    seen, projected, bank, said = plain_footprints(checkpoint, half_bytes=4)
    assert seen.size_bytes == 4 * seen.parameters > 0
    assert bank.size_bytes == 21 * 4 * tokens[0].numel()
    weights = load_file(checkpoint.directory / "model.safetensors")
    counted = seen.parameters + projected.parameters + said.parameters
    assert counted == sum(value.numel() for value in weights.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_a_frame_are_those_that_torch_counts(saved, family):
    checkpoint = opened(saved(family))
    vision = family_of(checkpoint).load_encoder(checkpoint).vision
    side = image_size(checkpoint)
    # torch does not count its fused attention on a CPU.
    vision.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted:
        vision(torch.zeros(2, side, side, 3, dtype=torch.uint8))
    assert family_of(checkpoint).frame_flop(checkpoint) == pytest.approx(
        counted.get_total_flops() / 2, rel=1e-3
    )


def test_compiling_is_refused_with_the_reason(saved):
    checkpoint = opened(saved("smolvlm"))
    with pytest.raises(CheckpointError, match="--compile is for InstructBLIP"):
        family_of(checkpoint).load_encoder(checkpoint, compile_vision=True)


def test_a_special_token_without_a_row_is_said_to_be_that(saved, tmp_path):
    directory = Path(shutil.copytree(saved("smolvlm"), tmp_path / "copy"))
    tokenizer = opened(directory).tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<image{number}>" for number in range(9)]})
    tokenizer.save_pretrained(directory)
    with pytest.raises(CheckpointError, match=r"has '<image8>' as .* without a row for it"):
        family_of(opened(directory)).verify(opened(directory))
