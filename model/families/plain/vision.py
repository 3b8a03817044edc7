"""The vision part of a plain family: uint8 frames to tokens in the language model's embedding space.

Shape suffixes: B frames, S steps of one or two frames, H rows, W columns, N tokens, L layers, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StepVision"]


class StepVision(nn.Module):
    """Normalises frames and turns them into tokens, ``frames_per_step`` frames at a time.

    ``tokens_of`` maps normalised pixels [B, 3, H, W] to [S, N, L, C]: layer 0 has the tokens that are compared; the
    others are merged along with it. Both sides of a frame must be multiples of ``multiple``; if that is 0, frames must
    have exactly ``image_size``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        tokens_of: Callable[[Any, Tensor], Tensor],
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        *,
        image_size: int,
        frames_per_step: int = 1,
        multiple: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.frames_per_step = frames_per_step
        self._tokens_of = tokens_of
        self._multiple = multiple
        mean, std = normalisation
        # As in transformers' processors, the rescaling by 1/255 is folded into mean and standard deviation.
        self.register_buffer(
            "mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1) * 255, persistent=False
        )
        self.register_buffer(
            "std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1) * 255, persistent=False
        )

    def pixels(self, frames_BHWC: Tensor) -> Tensor:
        """Normalised float32 pixels [B, 3, H, W] of uint8 frames [B, H, W, 3], on the encoder's device.

        Raises ValueError for frames of another size.
        """
        size = tuple(frames_BHWC.shape[1:3])
        fits = (
            not any(side % self._multiple for side in size)
            if self._multiple
            else size == (self.image_size,) * 2
        )
        if frames_BHWC.ndim != 4 or not fits:
            wanted = (
                f"sides that are multiples of {self._multiple}"
                if self._multiple
                else f"{self.image_size} pixels square"
            )
            raise ValueError(f"frames of shape {tuple(frames_BHWC.shape)}, not {wanted}")
        pixels_BCHW = frames_BHWC.to(self.mean.device, non_blocking=True).permute(0, 3, 1, 2)
        return (pixels_BCHW.to(torch.float32) - self.mean) / self.std

    def forward(self, frames_BHWC: Tensor) -> Tensor:
        """Tokens [S, N, L, C] of uint8 frames [B, H, W, 3], B a multiple of ``frames_per_step``."""
        dtype = next(self.model.parameters()).dtype
        return self._tokens_of(self.model, self.pixels(frames_BHWC).to(dtype))
