"""What each part of a checkpoint loads, and that it is all that it reads."""

from __future__ import annotations

import json
import resource
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file
from support.models import shard
from support.refused_checkpoints import load_all, opened_at
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerModel,
)

from malmm.model.checkpoints.checkpoint import CheckpointError, quiet_transformers
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel

VISION = "vision_model.encoder.layers.0.mlp.fc1.weight"


def test_loading_does_not_change_the_configuration(checkpoint_directory):
    checkpoint = opened_at(checkpoint_directory())
    before = json.dumps(checkpoint.config)
    Encoder.load(checkpoint)
    LanguageModel.load(checkpoint)
    assert json.dumps(checkpoint.config) == before


def test_sharded_checkpoints_load(checkpoint_directory, tmp_path):
    whole = checkpoint_directory()
    with quiet_transformers():
        model = InstructBlipForConditionalGeneration.from_pretrained(whole)
        shutil.copytree(whole, tmp_path / "sharded")
        (tmp_path / "sharded" / "model.safetensors").unlink()
        model.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    for ours, expected in zip(load_all(tmp_path / "sharded"), load_all(whole), strict=True):
        theirs = expected.state_dict()
        assert ours.state_dict().keys() == theirs.keys()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.state_dict().items())


def test_every_part_holds_the_files_tensors(checkpoint_directory):
    encoder, language = load_all(checkpoint_directory())
    ours = {
        **{f"vision_model.{key}": value for key, value in encoder.vision.model.state_dict().items()},
        **{f"qformer.{key}": value for key, value in encoder.qformer.qformer.state_dict().items()},
        "query_tokens": encoder.qformer.query_tokens,
        **{f"language_projection.{key}": value for key, value in language.projection.state_dict().items()},
        **{f"language_model.{key}": value for key, value in language.model.state_dict().items()},
    }
    stored = load_file(checkpoint_directory() / "model.safetensors")
    assert ours.keys() == stored.keys()
    assert all(torch.equal(value, stored[key]) for key, value in ours.items())


def claim_huge(directory, prefix):
    """Move the tensors under ``prefix`` to a sparse file that claims 64 MiB of each."""
    others = ["vision_model", "query_tokens", "qformer", "language_projection", "language_model"]
    others.remove(prefix)
    shard(directory, {"a.safetensors": others, "b.safetensors": [prefix]})
    header, offset = {}, 0
    for key in load_file(directory / "b.safetensors"):
        header[key] = {"dtype": "F32", "shape": [2**24], "data_offsets": [offset, offset + 2**26]}
        offset += 2**26
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "b.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


@pytest.mark.parametrize(("part", "unread"), [(Encoder, "language_model"), (LanguageModel, "vision_model")])
def test_a_part_is_loaded_without_reading_the_others_tensors(copied, part, unread):
    directory = copied()
    claim_huge(directory, unread)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    part.load(opened_at(directory))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 2**19


def test_one_tensor_and_the_names_under_a_prefix(opened, checkpoint_directory):
    checkpoint = opened()
    stored = load_file(checkpoint_directory() / "model.safetensors")
    assert torch.equal(checkpoint.tensor(VISION), stored[VISION])
    assert checkpoint.keys("language_projection.") == [
        "language_projection.bias",
        "language_projection.weight",
    ]
    with pytest.raises(CheckpointError, match=r"lacks the tensor vision_model\.nothing"):
        checkpoint.tensor("vision_model.nothing")


def test_transformers_is_quiet_only_inside(capfd, opened):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    checkpoint = opened()
    config = checkpoint.parsed(InstructBlipConfig).qformer_config
    checkpoint.pretrained(InstructBlipQFormerModel, config, "qformer.", torch.float32)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    with pytest.raises(RuntimeError, match="inside"), quiet_transformers():
        raise RuntimeError("inside")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
