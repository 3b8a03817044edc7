"""The text side of a dual encoder: from words to vectors, by transformers' own class. No image weights are read.

Shape suffixes: B texts, L tokens, V numbers a vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.towers.dual_parts import DualKind, kind_of, text_side

__all__ = ["DualTexts", "load_texts"]


class DualTexts:
    """Texts to unit vectors, on the CPU in single precision."""

    def __init__(
        self, kind: DualKind, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, longest: int
    ) -> None:
        self._kind, self._model, self._tokenizer, self._longest = kind, model, tokenizer, longest

    @torch.inference_mode()
    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, V] of texts; longer ones are cut to the table of positions."""
        given = [text.lower() for text in texts] if self._kind.lower_case else list(texts)
        inputs = self._tokenizer(
            given,
            padding="max_length" if self._kind.pads_to_end else True,
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        )
        features_BV = self._model.get_text_features(**inputs).pooler_output
        return F.normalize(features_BV, dim=-1).numpy()


def load_texts(checkpoint: Checkpoint) -> DualTexts:
    """The text side of a dual encoder's checkpoint. Raises CheckpointError."""
    return DualTexts(kind_of(checkpoint), *text_side(checkpoint, torch.float32))
