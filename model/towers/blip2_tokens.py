"""BLIP-2's image-text model as a tower: it reads the visual tokens of InstructBLIP's memory, stored or new."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Blip2Config

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.instructblip.vision import VisionEncoder
from malmm.model.memory.slots import Memory
from malmm.model.towers.blip2 import RETRIEVAL_PREFIXES, RetrievalModel, check_same_vision

__all__ = ["TOWERS", "TokenTower", "TokenVectors"]


class TokenVectors:
    """Vectors of slots, from their tokens, and of pictures, from the tokens of the image encoder ``vision``."""

    def __init__(self, model: RetrievalModel, vision: VisionEncoder | None = None) -> None:
        self.model = model
        self._vision = vision

    def of_slots(self, memory: Memory, frames: np.ndarray, shape: tuple[int, int]) -> Tensor:
        """Unit vectors [S, Q, V] of the slots' tokens, one a query token. The frames are not used."""
        return self.model.slot_vectors(memory.tokens)

    def of_picture(self, picture: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [Q, V] of a picture, as of a slot that holds this one frame."""
        if self._vision is None:
            raise ValueError("this tower was loaded without an image encoder")
        side = self._vision.image_size
        squashed = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
        with torch.inference_mode():
            tokens = self._vision(torch.from_numpy(squashed.copy())[None])
        return self.model.slot_vectors(tokens)[0].cpu().numpy()


class TokenTower:
    """The tower. It uses the run's model's image encoder, so both checkpoints must have the same image encoder."""

    def verify(self, checkpoint: Checkpoint, model: Checkpoint) -> None:
        """Compare tensors with the model's from headers, and the two image encoders. Raises CheckpointError."""
        checkpoint.check_prefixes(RETRIEVAL_PREFIXES)
        config = checkpoint.parsed(Blip2Config)
        tokenizer = checkpoint.tokenizer()
        with torch.device("meta"):
            queries = torch.empty(1, config.num_query_tokens, config.qformer_config.hidden_size)
            built = RetrievalModel(config, tokenizer, queries, with_images=True)
        for name, part in built.named_children():
            checkpoint.check(part, f"{name}.")
        check_same_vision(model, checkpoint)

    def load_slots(
        self,
        checkpoint: Checkpoint,
        *,
        model: Checkpoint,
        check_vision: bool = True,
        device: torch.device | str = "cpu",
    ) -> TokenVectors:
        """For tokens of ``model``'s image encoder. Raises CheckpointError, also for another image encoder."""
        return TokenVectors(
            RetrievalModel.load(checkpoint, instructblip=model, check_vision=check_vision, device=device)
        )

    def load_pictures(self, checkpoint: Checkpoint, *, model: Callable[[], Checkpoint]) -> TokenVectors:
        """With the model's image encoder, in single precision. Raises CheckpointError."""
        opened = model()
        # The image encoders were compared when the archive was made.
        return TokenVectors(
            RetrievalModel.load(checkpoint, instructblip=opened, check_vision=False),
            VisionEncoder.load(opened, dtype=torch.float32).eval(),
        )


TOWERS = {"blip-2": TokenTower()}
