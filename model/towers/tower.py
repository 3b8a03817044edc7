"""What a tower is: a model that turns memory slots and queries into vectors that can be compared.

There are two kinds. BLIP-2's image-text model reads the visual tokens that InstructBLIP's memory holds. A dual encoder
(SigLIP, CLIP) has its own image encoder and reads the slots' frames, so it works with every model family. A query
loads the text side only. ``malmm.model.towers.registry`` lists the towers.

Shape suffixes: B texts or pictures, T frames, S slots, Q vectors a slot, V numbers a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.memory.slots import Memory

__all__ = ["PictureVectors", "SlotVectors", "TextVectors", "Tower"]


class TextVectors(Protocol):
    """The text side."""

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, V] of texts."""


class PictureVectors(Protocol):
    """The image side, for a picture that is searched with."""

    def of_picture(self, picture: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [Q, V] of a picture, uint8 [H, W, 3] of any size."""


class SlotVectors(Protocol):
    """The image side, for the slots of a segment."""

    def of_slots(self, memory: Memory, frames: np.ndarray, shape: tuple[int, int]) -> Tensor:
        """Unit vectors [S, Q, V] of a memory's slots.

        ``frames`` [T, H, W, 3] are the frames that the memory was made from, squashed to the model family's square;
        ``shape`` is their width and height before that.
        """


class Tower(Protocol):
    """One kind of tower: how its parts are loaded, each by itself."""

    def verify(self, checkpoint: Checkpoint, model: Checkpoint) -> None:
        """Compare the checkpoint's tensors with the tower's from headers alone, and read tokenizer and settings.

        ``model`` is the checkpoint whose memory it is for. Raises CheckpointError.
        """

    def load_slots(
        self,
        checkpoint: Checkpoint,
        *,
        model: Checkpoint,
        check_vision: bool = True,
        device: torch.device | str = "cpu",
    ) -> SlotVectors:
        """The image side, for the memory of ``model``. Raises CheckpointError.

        ``check_vision`` compares image encoders, where both have one; a caller that has called ``verify`` may leave
        it out.
        """

    def load_pictures(self, checkpoint: Checkpoint, *, model: Callable[[], Checkpoint]) -> PictureVectors:
        """The image side, on the CPU in single precision. ``model`` opens the archive's model, if that is needed."""
