"""Recognise speech with a Whisper checkpoint (Radford et al., arXiv 2212.04356), through transformers.

Audio of any length is read as transformers does it: window by window, each beginning where the last whole segment of
the one before ended. Time stamps that a model writes beyond the end of the audio are set to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError, quiet_transformers

__all__ = ["SAMPLE_RATE", "Recogniser", "Utterance"]

SAMPLE_RATE = 16_000
"""Samples a second of the audio that Whisper hears."""
# Tokens of the decoder's 448 that are left to what begins a window: four at most.
_LEADING_TOKENS = 8
_SHORTEST_SAMPLES = 400


@dataclass(frozen=True)
class Utterance:
    """What is said in [start_s, end_s) of the audio, and the code of its language, empty for models of one language."""

    start_s: float
    end_s: float
    text: str
    language: str


class Recogniser:
    """A loaded Whisper model. Raises CheckpointError for a checkpoint that cannot be loaded."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        folder = str(checkpoint.directory)
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        try:
            with quiet_transformers():
                self._processor: Any = WhisperProcessor.from_pretrained(folder, local_files_only=True)
                model: Any = WhisperForConditionalGeneration.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=dtype
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"model {checkpoint.name!r} cannot be loaded: {reason}") from error
        self._model = model.to(device).eval()
        self._device, self._dtype = device, dtype
        # Both this and max_new_tokens would be limits, which transformers warns of in every window.
        self._model.generation_config.max_length = None

    @property
    def most_new_tokens(self) -> int:
        """The most tokens that it writes about one window of 30 seconds."""
        return int(self._model.config.max_target_positions) - _LEADING_TOKENS

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that it knows; empty for a model of one language."""
        known = getattr(self._model.generation_config, "lang_to_id", None) or {}
        return tuple(token[2:-2] for token in known)

    def recognise(self, audio: np.ndarray, language: str = "") -> list[Utterance]:
        """What is said in float32 [N] samples. Without a ``language`` the model finds it.

        Raises ValueError for a language that the model does not know.
        """
        if len(audio) < _SHORTEST_SAMPLES:
            return []
        known = self.languages
        if language and known and language not in known:
            raise ValueError(
                f"the model does not know the language {language!r}: it knows {', '.join(known)}"
            )
        features = self._processor(
            audio,
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            truncation=False,
            padding="longest",
            return_attention_mask=True,
        )
        # The encoder takes whole windows: shorter sound is followed by silence, as transformers does with the last one.
        missing = max(0, 2 * self._model.config.max_source_positions - features.input_features.shape[-1])
        inputs = pad(features.input_features, (0, missing)).to(self._device, self._dtype)
        mask = pad(features.attention_mask, (0, missing)).to(self._device)
        # Models of one language refuse both.
        asked: dict[str, Any] = {"language": language or None, "task": "transcribe"} if known else {}
        with torch.inference_mode(), quiet_transformers():
            out = self._model.generate(
                inputs,
                attention_mask=mask,
                return_timestamps=True,
                return_segments=True,
                max_new_tokens=self.most_new_tokens,
                **asked,
            )
            spoken = language or (self._found_language(inputs) if known else "")
        return self._utterances(out["segments"][0], len(audio) / SAMPLE_RATE, spoken)

    def _found_language(self, inputs: torch.Tensor) -> str:
        """The language of the first 30 seconds, as ``generate`` finds it."""
        window = inputs[..., : 2 * self._model.config.max_source_positions]
        token = self._model.detect_language(window)
        return str(self._processor.tokenizer.decode(token)).strip("<|>")

    def _utterances(
        self, segments: Sequence[dict[str, Any]], length_s: float, language: str
    ) -> list[Utterance]:
        found = []
        for segment in segments:
            text = self._processor.tokenizer.decode(segment["tokens"], skip_special_tokens=True)
            words = " ".join(text.split())
            start_s, end_s = float(segment["start"]), min(float(segment["end"]), length_s)
            if words and start_s < end_s:
                found.append(Utterance(start_s, end_s, words, language))
        return found
