"""Errors of compared tensors, and a recorded Q-Former as a module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from malmm.model.families.instructblip.qformer import OnlineQFormer

__all__ = ["TOLERANCE", "CaseError", "largest_error", "recorded_qformer", "under"]

TOLERANCE = 1e-10


@dataclass(frozen=True)
class CaseError:
    """The largest absolute error of one compared tensor of one case; of token ids, how many differ.

    ``rounding`` is the error that single precision within the recording explains on this machine.
    """

    case: str
    compared: str
    error: float
    rounding: float = 0.0

    def exceeds(self, tolerance: float) -> bool:
        """Whether the error is larger than ``tolerance``, and than rounding explains."""
        return not self.error <= max(tolerance, self.rounding)


def largest_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; infinite for another shape or where either is not a number."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    error = (ours.to(torch.float64) - theirs.to(torch.float64)).abs().max().item()
    return float("inf") if error != error else error  # a NaN compares with nothing


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with ``prefix``, without it, floating ones in float64."""
    return {
        key.removeprefix(prefix): value.to(torch.float64) if value.is_floating_point() else value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }


def recorded_qformer(
    weights: dict[str, Tensor], query_tokens: Tensor, metadata: dict[str, str]
) -> OnlineQFormer:
    """A float64 Q-Former of recorded weights, whose sizes the file's metadata says."""
    config = InstructBlipQFormerConfig(
        vocab_size=int(metadata["vocab"]),
        hidden_size=int(metadata["hidden"]),
        num_hidden_layers=int(metadata["layers"]),
        num_attention_heads=int(metadata["heads"]),
        intermediate_size=int(metadata["inter"]),
        encoder_hidden_size=int(metadata["enc"]),
        cross_attention_frequency=int(metadata["cross_attention_frequency"]),
        layer_norm_eps=float(metadata["layer_norm_eps"]),
        max_position_embeddings=weights["embeddings.position_embeddings.weight"].shape[0],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = InstructBlipQFormerModel(config).to(torch.float64).eval()
    model.load_state_dict(weights, strict=True)
    return OnlineQFormer(model, nn.Parameter(query_tokens.to(torch.float64)))
