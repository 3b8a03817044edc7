"""A wrong checkpoint is one sentence on the driver, before any worker loads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.models import give_positions

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import open_models
from malmm.model.checkpoints.verify import verify_models

Copied = Callable[..., Path]


def _change(copy: Path, part: str, change: str) -> None:
    """Drop, add or resize a tensor."""
    path = copy / part / "model.safetensors"
    tensors = load_file(path)
    key = sorted(tensors)[0]
    if change == "drop":
        del tensors[key]
    elif change == "add":
        tensors[f"{key}.more"] = torch.zeros(1)
    elif change == "resize":
        tensors[key] = torch.zeros(1, 2, 3)
    save_file(tensors, path, metadata={"format": "pt"})


def test_whole_checkpoints_pass(checkpoint_directory: Callable[..., Path]) -> None:
    verify_models(open_models(str(checkpoint_directory())))
    verify_models(open_models(str(checkpoint_directory()), "none"))


@pytest.mark.parametrize("part", ["", "retrieval"])
@pytest.mark.parametrize(
    ("change", "said"), [("drop", "lacks"), ("add", "unexpected"), ("resize", "another size")]
)
def test_a_wrong_tensor_is_named(
    copied: Copied, checkpoint_directory: Callable[..., Path], part: str, change: str, said: str
) -> None:
    copy = copied()
    _change(copy, part, change)
    first = sorted(load_file(checkpoint_directory() / part / "model.safetensors"))[0]
    with pytest.raises(CheckpointError) as caught:
        verify_models(open_models(str(copy)))
    assert said in str(caught.value)
    assert first in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_may_be_there_in_the_right_shape(copied: Copied) -> None:
    copy = copied()
    give_positions(copy, torch.zeros(9, 48))
    verify_models(open_models(str(copy)))
    give_positions(copy, torch.zeros(9, 49))
    with pytest.raises(CheckpointError, match=r"time_positions\.weight is \[9, 49\], not \[P, 48\]"):
        verify_models(open_models(str(copy)))
    give_positions(copy, torch.zeros(48), "bias")
    with pytest.raises(CheckpointError, match=r"unexpected tensors: time_positions\.bias"):
        verify_models(open_models(str(copy)))


@pytest.mark.parametrize(
    "place", ["tokenizer.json", "qformer_tokenizer/tokenizer.json", "retrieval/tokenizer.json"]
)
def test_a_broken_tokenizer_is_named(
    copied: Copied, checkpoint_directory: Callable[..., Path], place: str
) -> None:
    copy = copied()
    (copy / place).write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer"):
        verify_models(open_models(str(copy)))


def test_a_companion_of_another_image_encoder_is_refused(copied: Copied) -> None:
    copy = copied()
    path = copy / "retrieval" / "model.safetensors"
    tensors = load_file(path)
    key = next(key for key in sorted(tensors) if key.startswith("vision_model.encoder."))
    tensors[key] = tensors[key] + 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="another image encoder"):
        verify_models(open_models(str(copy)))


def test_nothing_of_the_language_model_is_read(copied: Copied) -> None:
    """Weights that are not numbers pass: only headers are looked at, so a 14 GB model is checked at once."""
    copy = copied()
    path = copy / "model.safetensors"
    header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + header_bytes])
    begin, end = (
        header["language_model.model.embed_tokens.weight"]["data_offsets"]
        if ("language_model.model.embed_tokens.weight" in header)
        else header["language_model.shared.weight"]["data_offsets"]
    )
    data = bytearray(path.read_bytes())
    data[8 + header_bytes + begin : 8 + header_bytes + end] = b"\xff" * (end - begin)
    path.write_bytes(bytes(data))
    verify_models(open_models(str(copy)))
