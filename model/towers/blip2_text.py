"""The text side of a BLIP-2 image-text model in numpy: from words to a vector without torch or transformers.

A query from the shell has no time for either: importing them costs four seconds of CPU. A text of ten tokens through
a 12-layer Q-Former is 0.1 s. The architecture is BERT's with the Q-Former's text feed-forward (Li et al., 2023, arXiv
2301.12597); a test compares the vectors with ``RetrievalModel.text_vectors``.

Shapes: B texts, L tokens, D channels of the Q-Former, H heads, V length of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.vocabulary import TextTokens

__all__ = ["TextTower", "load_texts"]

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
}
"""transformers' defaults for settings that a configuration leaves out."""

Weights = dict[str, np.ndarray]


class TextTower:
    """Texts to unit vectors, on the CPU in single precision."""

    def __init__(self, settings: dict[str, Any], weights: Weights, tokens: TextTokens) -> None:
        self._heads = int(settings["num_attention_heads"])
        self._layers = int(settings["num_hidden_layers"])
        self._eps = float(settings["layer_norm_eps"])
        self._weights, self._tokens = weights, tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> TextTower:
        """Read the tensors of the text side only. Raises CheckpointError."""
        found = checkpoint.config.get("qformer_config")
        settings = _DEFAULTS | (found if isinstance(found, dict) else {})
        if settings["hidden_act"] != "gelu":
            raise CheckpointError(
                f"retrieval model {checkpoint.name!r} has hidden_act {settings['hidden_act']!r}; this needs 'gelu'"
            )
        size, inner = int(settings["hidden_size"]), int(settings["intermediate_size"])
        shapes: dict[str, tuple[int | None, ...]] = {
            "embeddings.word_embeddings.weight": (int(settings["vocab_size"]), size),
            "embeddings.position_embeddings.weight": (int(settings["max_position_embeddings"]), size),
            "text_projection.weight": (None, size),
            "text_projection.bias": (None,),
            **_norm("qformer.layernorm", size),
        }
        for number in range(int(settings["num_hidden_layers"])):
            layer = f"qformer.encoder.layer.{number}"
            for part in ("query", "key", "value"):
                shapes |= _linear(f"{layer}.attention.attention.{part}", size, size)
            shapes |= _linear(f"{layer}.attention.output.dense", size, size)
            shapes |= _norm(f"{layer}.attention.output.LayerNorm", size)
            shapes |= _linear(f"{layer}.intermediate.dense", inner, size)
            shapes |= _linear(f"{layer}.output.dense", size, inner)
            shapes |= _norm(f"{layer}.output.LayerNorm", size)
        weights = {name: checkpoint.array(name) for name in shapes}  # 440 MB at the published size
        for name, shape in shapes.items():
            got = weights[name].shape
            if len(got) != len(shape) or any(w not in (None, g) for w, g in zip(shape, got, strict=True)):
                raise CheckpointError(
                    f"retrieval model {checkpoint.name!r}: {name} is {list(got)}, not {list(shape)}"
                )
        rows, longest = int(settings["vocab_size"]), int(settings["max_position_embeddings"])
        return cls(settings, weights, TextTokens.load(checkpoint, rows, longest))

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, V] of texts; one is compared with all of a slot's by cosine."""
        # One by one: alone, a text needs no padding and no mask.
        return np.stack([self._vector(np.asarray(self._tokens.ids(text))) for text in texts])

    def _vector(self, ids_L: np.ndarray) -> np.ndarray:
        embedded_LD = self._weights["embeddings.word_embeddings.weight"][ids_L].astype(np.float32)
        embedded_LD = embedded_LD + self._weights["embeddings.position_embeddings.weight"][: len(ids_L)]
        hidden_LD = self._normed("qformer.layernorm", embedded_LD)
        for number in range(self._layers):
            hidden_LD = self._layer(f"qformer.encoder.layer.{number}", hidden_LD)
        vector_V = self._mapped("text_projection", hidden_LD[0])
        return (vector_V / max(float(np.linalg.norm(vector_V)), 1e-12)).astype(np.float32)

    def _layer(self, name: str, hidden_LD: np.ndarray) -> np.ndarray:
        attended_LD = self._attended(f"{name}.attention.attention", hidden_LD)
        mixed_LD = self._mapped(f"{name}.attention.output.dense", attended_LD) + hidden_LD
        mixed_LD = self._normed(f"{name}.attention.output.LayerNorm", mixed_LD)
        inner = _gelu(self._mapped(f"{name}.intermediate.dense", mixed_LD))
        return self._normed(
            f"{name}.output.LayerNorm", self._mapped(f"{name}.output.dense", inner) + mixed_LD
        )

    def _attended(self, name: str, hidden_LD: np.ndarray) -> np.ndarray:
        length, size = hidden_LD.shape
        query_HLd, key_HLd, value_HLd = (
            self._mapped(f"{name}.{part}", hidden_LD).reshape(length, self._heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores_HLL = query_HLd @ key_HLd.transpose(0, 2, 1) / math.sqrt(size // self._heads)
        scores_HLL = np.exp(scores_HLL - scores_HLL.max(axis=-1, keepdims=True))
        shares_HLL = scores_HLL / scores_HLL.sum(axis=-1, keepdims=True)
        return (shares_HLL @ value_HLd).transpose(1, 0, 2).reshape(length, size)

    def _mapped(self, name: str, values: np.ndarray) -> np.ndarray:
        return values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _normed(self, name: str, values: np.ndarray) -> np.ndarray:
        centred = values - values.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._eps)
        return centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int | None, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> dict[str, tuple[int | None, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _gelu(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1 + _erf(values / math.sqrt(2)))


def _erf(values: np.ndarray) -> np.ndarray:
    """The error function to 1.2e-7, relative to its complement (Press et al., Numerical Recipes, section 6.2)."""
    z = np.abs(values)
    t = 1 / (1 + 0.5 * z)
    powers = (
        -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806,
        0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
    )  # fmt: skip
    rest = t * np.exp(-z * z + np.polynomial.polynomial.polyval(t, powers))
    return np.where(values >= 0, 1 - rest, rest - 1)


def load_texts(checkpoint: Checkpoint) -> TextTower:
    """The text side of a BLIP-2 checkpoint. Raises CheckpointError."""
    return TextTower.load(checkpoint)
