"""Dual encoders as towers: SigLIP, CLIP and similar models encode a slot's frames into one vector.

The vector is the mean of the unit vectors of the frames in the slot's span (``Memory.frame_weights``), scaled to unit
length. docs/decisions.md says why.

Shape suffixes: B frames at once, T frames, S slots, C colours, H rows, W columns, V numbers a vector.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.family import half_precision
from malmm.model.memory.slots import Memory
from malmm.model.towers.dual_parts import KINDS, DualKind, image_side, kind_of, verify_tensors
from malmm.model.towers.picture_form import PictureForm

__all__ = ["TOWERS", "DualPictures", "DualTower", "picture_form"]

#: Frames that go through the image encoder at once.
FRAMES_AT_ONCE = 32


class DualPictures:
    """The image side: frames, slots and pictures to unit vectors."""

    def __init__(self, model: PreTrainedModel, form: PictureForm) -> None:
        self._model, self._form = model, form
        mean, std = (torch.tensor(values, dtype=torch.float32) * 255 for values in form.normalisation)
        self._mean_C11, self._std_C11 = mean.view(3, 1, 1), std.view(3, 1, 1)

    @torch.inference_mode()
    def of_frames(self, frames: np.ndarray, shape: tuple[int, int] | None = None) -> Tensor:
        """Unit vectors float32 [T, V] of frames uint8 [T, H, W, 3], on the encoder's device.

        ``shape`` is the frames' width and height before they were squashed; None if they were not squashed.
        """
        parts = []
        for begin in range(0, len(frames), FRAMES_AT_ONCE):
            batch = [self._form.apply(frame, shape) for frame in frames[begin : begin + FRAMES_AT_ONCE]]
            pixels_BCHW = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).to(torch.float32)
            pixels_BCHW = (pixels_BCHW - self._mean_C11) / self._std_C11
            pixels_BCHW = pixels_BCHW.to(self._model.device, self._model.dtype)
            seen_BV = self._model.get_image_features(pixel_values=pixels_BCHW).pooler_output
            parts.append(F.normalize(seen_BV.to(torch.float32), dim=-1))
        return torch.cat(parts)

    @torch.inference_mode()
    def of_slots(self, memory: Memory, frames: np.ndarray, shape: tuple[int, int]) -> Tensor:
        """Unit vectors float32 [S, 1, V], each the mean of its slot's frames.

        Raises ValueError when the number of frames is not that of the memory.
        """
        if len(frames) != memory.appended:
            raise ValueError(f"{len(frames)} frames for a memory of {memory.appended}")
        seen_TV = self.of_frames(frames, shape)
        weights_ST = memory.frame_weights().to(seen_TV.device, torch.float32)
        return F.normalize(weights_ST @ seen_TV, dim=-1)[:, None]

    def of_picture(self, picture: np.ndarray) -> np.ndarray:
        """Unit vector float32 [1, V] of a picture, uint8 [H, W, 3] of any size."""
        return self.of_frames(picture[None]).cpu().numpy()


class DualTower:
    """The tower. It does not need the run's model, since it has its own image encoder."""

    def verify(self, checkpoint: Checkpoint, model: Checkpoint) -> None:
        """Compare tensors from headers, read tokenizer and processor's settings. Raises CheckpointError."""
        picture_form(checkpoint)
        verify_tensors(checkpoint)

    def load_slots(
        self,
        checkpoint: Checkpoint,
        *,
        model: Checkpoint,
        check_vision: bool = True,
        device: torch.device | str = "cpu",
    ) -> DualPictures:
        """The image side, in half precision on CUDA. Raises CheckpointError."""
        device = torch.device(device)
        return _pictures(checkpoint, device, half_precision(device))

    def load_pictures(self, checkpoint: Checkpoint, *, model: Callable[[], Checkpoint]) -> DualPictures:
        """The image side, on the CPU. Raises CheckpointError."""
        return _pictures(checkpoint, torch.device("cpu"), torch.float32)


def picture_form(checkpoint: Checkpoint) -> PictureForm:
    """How the checkpoint wants pictures. Raises CheckpointError."""
    kind: DualKind = kind_of(checkpoint)
    vision = checkpoint.config.get("vision_config")
    side = vision.get("image_size", 224) if isinstance(vision, dict) else None
    if not isinstance(side, int) or side < 1:
        raise CheckpointError(
            f"model {checkpoint.name!r}: its config.json says pictures of {side!r} pixels, and this needs a square"
        )
    return PictureForm.load(checkpoint, side, crops=kind.crops, default=kind.normalisation)


def _pictures(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> DualPictures:
    form = picture_form(checkpoint)
    return DualPictures(image_side(checkpoint, dtype).to(device), form)


TOWERS = dict.fromkeys(KINDS, DualTower())
