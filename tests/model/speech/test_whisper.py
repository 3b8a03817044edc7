"""What is recognised equals transformers' own ``generate``, but for times beyond the end of the audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_whisper import make_whisper, said_by_transformers

from malmm.model.checkpoints.errors import CheckpointError
from malmm.model.speech.checkpoints import open_whisper
from malmm.model.speech.whisper import SAMPLE_RATE, Recogniser

SECONDS = 34.0


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.1, round(SECONDS * SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize("language", ["en", ""])
def test_it_hears_what_transformers_hears(whisper: Path, sound: np.ndarray, language: str) -> None:
    wanted = said_by_transformers(whisper, sound, language)
    assert wanted
    recogniser = Recogniser(open_whisper(str(whisper)), torch.device("cpu"))
    assert recogniser.most_new_tokens == 24
    found = recogniser.recognise(sound, language)
    assert [(each.start_s, each.end_s, each.text) for each in found] == wanted
    assert {each.language for each in found} <= ({language} if language else set(recogniser.languages))
    assert all(each.end_s <= SECONDS for each in found)


def test_what_it_cannot_do_is_said(whisper: Path, sound: np.ndarray, tmp_path: Path) -> None:
    recogniser = Recogniser(open_whisper(str(whisper)), torch.device("cpu"))
    with pytest.raises(ValueError, match="does not know the language 'xx'"):
        recogniser.recognise(sound, "xx")
    assert recogniser.recognise(sound[:100]) == []
    assert all(each.end_s <= 1.0 for each in recogniser.recognise(sound[:SAMPLE_RATE]))
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin, which is pickle"):
        open_whisper(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="this needs 'whisper'"):
        open_whisper(str(tmp_path))
