"""Checkpoints that are broken, incomplete or of another kind, each named with what is wrong."""

from __future__ import annotations

import shutil
import struct

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from support.models import edit_json, edit_weights, shard
from support.refused_checkpoints import load_all, opened_at, refusal

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel

VISION = "vision_model.encoder.layers.0.mlp.fc1.weight"
QFORMER = "qformer.encoder.layer.1.attention.attention.query.weight"
LANGUAGE = "language_model.model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("key", [VISION, QFORMER, LANGUAGE, "query_tokens", "language_projection.bias"])
def test_a_missing_tensor_is_named(copied, key):
    directory = copied()
    edit_weights(directory, lambda tensors: tensors.pop(key))
    message = refusal(directory)
    assert "lacks the tensor" in message
    assert key in message


@pytest.mark.parametrize(
    "key",
    [
        "vision_model.encoder.layers.0.mlp.fc3.weight",
        "qformer.cls.bias",
        "language_model.model.layers.0.extra",
        "language_projection.scale",
        "adapter.weight",
        "time_positions.bias",
        "time_positions.weight.more",
    ],
)
def test_an_unexpected_tensor_is_named(copied, key):
    directory = copied()
    edit_weights(directory, lambda tensors: tensors.update({key: torch.zeros(2)}))
    message = refusal(directory)
    assert "unexpected tensors" in message
    assert key in message


@pytest.mark.parametrize("key", ["adapter.weight", "time_positions.bias"])
def test_what_belongs_to_no_part_is_refused_by_every_part(copied, key):
    directory = copied()
    edit_weights(directory, lambda tensors: tensors.update({key: torch.zeros(2)}))
    for part in (Encoder, LanguageModel):
        with pytest.raises(CheckpointError, match=f"unexpected tensors: {key}"):
            part.load(opened_at(directory))


@pytest.mark.parametrize("key", [VISION, QFORMER, LANGUAGE, "language_projection.weight"])
def test_a_tensor_of_another_size_is_named_with_both(copied, key):
    directory = copied()
    edit_weights(directory, lambda tensors: tensors.update({key: tensors[key][:-1].contiguous()}))
    size = list(load_file(directory / "model.safetensors")[key].shape)
    assert f"{key} is {size}, not {[size[0] + 1, *size[1:]]}" in refusal(directory)


def test_many_missing_tensors_are_counted(copied):
    directory = copied()
    edit_weights(
        directory, lambda t: [t.pop(key) for key in list(t) if key.startswith("qformer.encoder.layer.1")]
    )
    assert " and 17 more" in refusal(directory)


def test_buffers_of_older_releases_are_passed_over(copied):
    directory = copied()
    old = {
        "qformer.embeddings.position_ids": torch.arange(512)[None],
        "language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    }
    edit_weights(directory, lambda tensors: tensors.update(old))
    load_all(directory)


def test_a_missing_shard_is_named(copied):
    directory = copied()
    shard(directory, {"a.safetensors": ["vision", "q"], "b.safetensors": ["language"]})
    load_all(directory)
    (directory / "b.safetensors").unlink()
    assert f"{directory / 'b.safetensors'} is missing" in refusal(directory)


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"query_tokens": "../secret.safetensors"}}',
              '{"weight_map": {"query_tokens": "/etc/passwd"}}', '{"weight_map": {"query_tokens": 3}}',
              '{"weight_map": {"query_tokens": ["a"]}}', '{"weight_map": {"query_tokens": ".."}}']
)  # fmt: skip
def test_an_index_that_cannot_be_followed_is_named(copied, index):
    directory = copied()
    shutil.copy(directory / "model.safetensors", directory.parent / "secret.safetensors")
    (directory / "model.safetensors.index.json").write_text(index)
    assert "index" in refusal(directory) or "is missing" in refusal(directory)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a tensor in here"),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:]),
    ],
)
def test_broken_weights_are_named(copied, damage):
    directory = copied()
    damage(directory / "model.safetensors")
    assert f"{directory / 'model.safetensors'} cannot be read" in refusal(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no config.json, so it is not a checkpoint"),
        ("{", "config.json cannot be read"),
        ("[]", "is of type None; this needs 'instructblip'"),
        ('{"model_type": "llava"}', "is of type 'llava'; this needs 'instructblip'"),
    ],
)
def test_an_unusable_configuration_is_named(copied, text, message):
    directory = copied()
    path = directory / "config.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert message in refusal(directory)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "model_type", "no-such-model"),
        ("text_config", "model_type", "bert"),
        ("qformer_config", "hidden_size", "wide"),
        ("qformer_config", "num_attention_heads", 5),
        ("vision_config", "hidden_size", None),
        ("vision_config", "hidden_act", "no-such-act"),
    ],
)
def test_a_configuration_that_transformers_cannot_use_is_named(copied, part, key, value):
    directory = copied()
    edit_json(directory / "config.json", lambda config: config[part].update({key: value}))
    refusal(directory)


def test_names_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for name, message in (
        (str(tmp_path / "nowhere"), "there is no such directory, and it is not a hub id"),
        (str(tmp_path / "file"), "is a file; give the directory that holds config.json"),
        ("./here/there", "no such directory"),
        ("a/b/c", "no such directory"),
        ("owner/..", "no such directory"),
    ):
        with pytest.raises(CheckpointError, match=message):
            opened_at(name)


def test_an_unknown_hub_id_without_network_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("owner/no-such-model", "owner/" + "x" * 200):
        with pytest.raises(
            CheckpointError, match=r"is not a local directory and could not be fetched"
        ) as refused:
            opened_at(name)
        assert "\n" not in str(refused.value)


def test_broken_and_missing_tokenizers_are_named(copied):
    directory = copied()
    for path, message in (
        (directory / "qformer_tokenizer", "qformer_tokenizer has no tokenizer"),
        (directory, "has no tokenizer"),
    ):
        kept = {name: (path / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
        (path / "tokenizer.json").write_text('{"version": "1.0"}')
        assert "the tokenizer in" in refusal(directory)
        for name in kept:
            (path / name).unlink()
        assert message in refusal(directory)
        for name, content in kept.items():
            (path / name).write_bytes(content)
    load_all(directory)


def test_the_other_tokenizer_is_not_taken_for_the_q_formers(copied):
    directory = copied()
    tokenizer = opened_at(directory).tokenizer("qformer_tokenizer")
    tokenizer.add_tokens(["something"])
    tokenizer.save_pretrained(directory / "qformer_tokenizer")
    assert "the tokenizer is another model's" in refusal(directory)


def test_the_fingerprint_follows_the_content_not_the_place(copied, checkpoint_directory):
    original = opened_at(checkpoint_directory()).fingerprint()
    directory = copied(name="a")
    assert opened_at(directory).fingerprint() == original
    moved = directory.rename(directory.parent / "elsewhere")
    assert opened_at(moved).fingerprint() == original
    edit_weights(moved / "retrieval", lambda tensors: tensors["query_tokens"].mul_(2))
    assert opened_at(moved).fingerprint() == original  # another model's
    edit_json(moved / "config.json", lambda config: config.update(num_query_tokens=9))
    configured = opened_at(moved).fingerprint()
    for path, change in (
        (moved, lambda: edit_weights(moved, lambda tensors: tensors[LANGUAGE].view(-1)[5:6].add_(1e-3))),
        (
            moved,
            lambda: edit_json(moved / "preprocessor_config.json", lambda c: c.update(image_mean=[0, 0, 0])),
        ),
        (moved, lambda: edit_json(moved / "qformer_tokenizer" / "tokenizer.json", lambda c: c.update(a=1))),
    ):
        change()
        changed = opened_at(path).fingerprint()
        assert changed not in (original, configured)
        configured = changed
