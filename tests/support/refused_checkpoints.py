"""Opening InstructBLIP checkpoints that are broken, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel

__all__ = ["load_all", "opened_at", "refusal"]


def opened_at(directory: Path | str) -> Checkpoint:
    return Checkpoint.open(str(directory), model_types=("instructblip",))


def load_all(directory: Path | str) -> tuple[Encoder, LanguageModel]:
    checkpoint = opened_at(directory)
    return Encoder.load(checkpoint), LanguageModel.load(checkpoint)


def refusal(directory: Path | str) -> str:
    """The sentence with which a checkpoint is refused, which names it and is one line."""
    with pytest.raises(CheckpointError) as refused:
        load_all(directory)
    message = str(refused.value)
    assert message.startswith("model ")
    assert str(directory) in message
    assert "\n" not in message
    return message
