"""What is recognised equals transformers' own ``generate``, but for times beyond the end of the audio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_whisper import make_whisper
from transformers import WhisperForConditionalGeneration, WhisperProcessor

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
    processor = WhisperProcessor.from_pretrained(whisper)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    features = processor(
        sound, sampling_rate=SAMPLE_RATE, return_tensors="pt", truncation=False, padding="longest",
        return_attention_mask=True,
    )  # fmt: skip
    with torch.inference_mode():
        out = model.generate(
            features.input_features, attention_mask=features.attention_mask, return_timestamps=True,
            return_segments=True, language=language or None, task="transcribe", max_new_tokens=24,
        )  # fmt: skip
    segments = out["segments"][0]
    wanted = [
        (float(each["start"]), min(float(each["end"]), SECONDS), " ".join(text.split()))
        for each in segments
        if (text := processor.tokenizer.decode(each["tokens"], skip_special_tokens=True)).strip()
        and float(each["start"]) < min(float(each["end"]), SECONDS)
    ]
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
