"""What fine-tuning asks of a model: losses, answers, and the tensors that it trains.

A learner is a family's part of fine-tuning. The loop (``malmm.model.training.loop``) knows nothing else of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

__all__ = ["Learner", "Shown"]


@dataclass(frozen=True, eq=False)
class Shown:
    """One example as a model sees it: uint8 frames [T, H, W, 3] at ``times_s`` seconds, a prompt and its answer.

    ``end_s`` is the end of the clip.
    """

    frames: np.ndarray
    times_s: tuple[float, ...]
    end_s: float
    prompt: str
    answer: str


class Learner(Protocol):
    """A model that is fine-tuned."""

    @property
    def module(self) -> nn.Module:
        """All its parts. The parameters that ask for a gradient are trained, under the names that they have here."""

    def answer_tokens(self, shown: Sequence[Shown]) -> int:
        """The number of tokens that the loss is summed over."""

    def summed_loss(self, shown: Sequence[Shown]) -> Tensor:
        """The cross-entropy summed over the answers' tokens, with gradient."""

    def answers(self, shown: Sequence[Shown]) -> list[str]:
        """The model's own answers."""

    def trained_tensors(self) -> dict[str, Tensor]:
        """What was trained, under the names that a checkpoint has for it, on the CPU."""
