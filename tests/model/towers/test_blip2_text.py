"""The text tower in numpy gives the vectors of transformers' model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import edit_weights

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.resolve import debug_checkpoint, demo_checkpoint
from malmm.model.towers.blip2 import RetrievalModel
from malmm.model.towers.blip2_text import TextTower

TEXTS = ["a red circle moving left", "", "a", "Ünïcode, 火 & <image> [SEP]?", "word " * 700, "x" * 3000]


def opened(folder: Path) -> Checkpoint:
    return Checkpoint.open(str(folder), model_types=("blip-2",))


def difference(folder: Path) -> float:
    checkpoint = opened(folder)
    expected = RetrievalModel.load(checkpoint).text_vectors(TEXTS).numpy()
    found = TextTower.load(checkpoint).vectors(TEXTS)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    return float(np.abs(found - expected).max())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in the published format that may be changed."""
    return Path(shutil.copytree(debug_checkpoint() / "retrieval", tmp_path / "retrieval"))


@pytest.mark.parametrize("name", ["demo", "debug", "debug encoder-decoder"])
def test_vectors_are_those_of_transformers(name: str) -> None:
    place = demo_checkpoint() if name == "demo" else debug_checkpoint(name.partition(" ")[2] or "decoder")
    assert difference(place / "retrieval") < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_type_are_read(folder: Path, dtype: torch.dtype) -> None:
    edit_weights(
        folder, lambda tensors: tensors.update({name: value.to(dtype) for name, value in tensors.items()})
    )
    assert difference(folder) < 1e-5


def with_token(folder: Path, token: str, *, special: bool) -> None:
    """Give the tokenizer one token more than the table has rows."""
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    rows = json.loads((folder / "config.json").read_text())["qformer_config"]["vocab_size"]
    told["added_tokens"].append({
        "id": rows, "content": token, "special": special,
        "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
    })  # fmt: skip
    path.write_text(json.dumps(told), encoding="utf-8")


def test_a_special_token_that_no_word_makes_may_lie_beyond_the_table(folder: Path) -> None:
    """Published retrieval checkpoints have ``<image>`` there; a text that spells it is not looked up there."""
    with_token(folder, "<image>", special=True)
    assert difference(folder) < 1e-5
    tower = TextTower.load(opened(folder))
    assert np.isfinite(tower.vectors(["<image>", "an <image> of"])).all()


@pytest.mark.parametrize("load", [TextTower.load, RetrievalModel.load], ids=["numpy", "transformers"])
def test_a_word_beyond_the_table_is_named(folder: Path, load: Callable[[Checkpoint], object]) -> None:
    with_token(folder, "horse", special=False)
    with pytest.raises(CheckpointError, match=r"has 'horse' as token .* the tokenizer is another model's"):
        load(opened(folder))


def test_a_tensor_that_is_missing_or_of_another_size_is_named(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({"text_projection.weight": torch.zeros(3, 3)}))
    with pytest.raises(CheckpointError, match=r"text_projection.weight is \[3, 3\]"):
        TextTower.load(opened(folder))
    edit_weights(folder, lambda tensors: tensors.pop("text_projection.weight"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor text_projection\.weight"):
        TextTower.load(opened(folder))


def test_another_activation_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["qformer_config"]["hidden_act"] = "relu"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="hidden_act 'relu'"):
        TextTower.load(opened(folder))
