"""Checkpoints that would run code, of which none is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from support.models import edit_json
from support.refused_checkpoints import load_all, opened_at, refusal

from malmm.model.checkpoints.checkpoint import CheckpointError


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


def test_pickle_is_never_read(copied, monkeypatch):
    directory = copied()
    (directory / "model.safetensors").unlink()
    exploded = directory.parent / "exploded"
    monkeypatch.setenv("BOMB", str(exploded))
    torch.save({"query_tokens": Bomb()}, directory / "pytorch_model.bin")
    message = refusal(directory)
    assert "model.safetensors is missing" in message
    assert "it holds pytorch_model.bin, which is pickle and never read" in message
    assert not exploded.exists()


def test_only_safetensors_and_text_are_fetched(monkeypatch, checkpoint_directory):
    asked = {}

    def download(name, **options):
        asked[name] = options
        return str(checkpoint_directory())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert opened_at("owner/name").directory == checkpoint_directory()
    patterns = asked["owner/name"]["allow_patterns"]
    assert not any(Path("model.bin").match(pattern) or Path("code.py").match(pattern) for pattern in patterns)


def test_a_tokenizer_that_asks_for_code_gets_none_run(copied):
    directory = copied()
    exploded = directory / "exploded"
    (directory / "code.py").write_text(f"import os; os.mkdir({str(exploded)!r})\nclass Own: pass\n")

    def ask(config):
        config.update(tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "code.Own"]})

    edit_json(directory / "tokenizer_config.json", ask)
    edit_json(directory / "config.json", lambda c: c.update(auto_map={"AutoModel": "code.Own"}))
    try:
        load_all(directory)
    except CheckpointError as error:
        assert "tokenizer" in str(error)  # noqa: PT017
    assert not exploded.exists()


@pytest.mark.parametrize(
    "key", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"]
)
def test_a_configuration_that_names_a_kernel_of_the_hub_gets_none_run(copied, key):
    directory = copied()

    def ask(config):
        for part in (config, *(config[name] for name in ("vision_config", "qformer_config", "text_config"))):
            part[key] = "owner/kernel"

    edit_json(directory / "config.json", ask)
    encoder, language = load_all(directory)
    for model in (encoder.vision.model, encoder.qformer.qformer, language.model):
        assert model.config._attn_implementation in ("sdpa", "eager")
