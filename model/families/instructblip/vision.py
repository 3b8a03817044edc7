"""The frozen image encoder: uint8 frames in, visual tokens out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import InstructBlipConfig, InstructBlipVisionModel

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.normalisation import image_normalisation

__all__ = ["VisionEncoder"]


class VisionEncoder(nn.Module):
    """Normalises frames and encodes them. ``forward``: uint8 [B, H, W, 3] to visual tokens [B, N, C]."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: InstructBlipVisionModel, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.model = model
        # As in transformers' processor, the rescaling by 1/255 is folded into mean and standard deviation.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32) * 255, persistent=False)

    @classmethod
    def load(cls, checkpoint: Checkpoint, *, dtype: torch.dtype) -> VisionEncoder:
        """The image encoder of an InstructBLIP checkpoint. Raises CheckpointError.

        ``post_layernorm_eps`` of ``vision_config`` is the epsilon of the last layer norm, where it is not that of the
        others: the authors' is 1e-5.
        """
        config = checkpoint.parsed(InstructBlipConfig).vision_config
        model = checkpoint.pretrained(InstructBlipVisionModel, config, "vision_model.", dtype)
        epsilon = checkpoint.config["vision_config"].get("post_layernorm_eps", config.layer_norm_eps)
        if not (isinstance(epsilon, float | int) and 0 < epsilon < 1):
            raise CheckpointError(f"model {checkpoint.name!r} has a post_layernorm_eps of {epsilon!r}")
        model.post_layernorm.eps = float(epsilon)
        return cls(model, *image_normalisation(checkpoint))

    @property
    def image_size(self) -> int:
        """Side of the square input frames, in pixels."""
        return int(self.model.config.image_size)

    @property
    def tokens_per_frame(self) -> int:
        """N: the patches and the class token."""
        return (self.image_size // int(self.model.config.patch_size)) ** 2 + 1

    @property
    def channels(self) -> int:
        """C: the size of a visual token."""
        return int(self.model.config.hidden_size)

    def pixels(self, frames_BHWC: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] of uint8 frames [B, H, W, 3], on the encoder's device."""
        pixels_BHWC = (self.on_device(frames_BHWC).to(torch.float32) - self.mean) / self.std
        return pixels_BHWC.permute(0, 3, 1, 2).to(self.model.dtype)

    def on_device(self, frames_BHWC: Tensor) -> Tensor:
        """Copy the frames to the encoder's device; to a GPU asynchronously."""
        device = self.mean.device
        if device.type == "cuda" and not frames_BHWC.is_cuda:
            frames_BHWC = frames_BHWC.pin_memory()
        return frames_BHWC.to(device, non_blocking=True)

    def check(self, frames_BHWC: Tensor) -> None:
        """Raise ValueError for frames of another size."""
        size = self.image_size
        if frames_BHWC.ndim != 4 or tuple(frames_BHWC.shape[1:]) != (size, size, 3):
            raise ValueError(f"frames of shape {tuple(frames_BHWC.shape)}, not [B, {size}, {size}, 3]")

    def forward(self, frames_BHWC: Tensor) -> Tensor:
        """Visual tokens [B, N, C] of uint8 frames [B, H, W, 3]. Raises ValueError for another frame size."""
        self.check(frames_BHWC)
        return self.model(pixel_values=self.pixels(frames_BHWC)).last_hidden_state
