"""Turn query texts and images into vectors. Loads only the parts of the models that a query needs.

A text goes through the text tower of the retrieval model, in numpy, without torch and without the language model. An
image, and re-ranking, need the image encoder and the Q-Former.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from malmm.pipeline.archive.recipe_models import archive_models, archive_retrieval
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.model.checkpoints.checkpoint import Checkpoint
    from malmm.model.checkpoints.resolve import Models
    from malmm.model.families.instructblip.vision import VisionEncoder
    from malmm.model.towers.blip2 import RetrievalModel
    from malmm.model.towers.blip2_text import TextTower

__all__ = ["QueryVectors"]


class QueryVectors:
    """Loads each part of the models at the first query that needs it, and keeps it.

    ``names`` are the paths or ids of the archive's model and retrieval model, if not those recorded in the archive.
    """

    def __init__(self, recipe: Recipe, names: tuple[str | None, str | None] = (None, None)) -> None:
        self._recipe, self._names = recipe, names
        self._retrieval: Checkpoint | None = None
        self._models: Models | None = None
        self._texts: TextTower | None = None
        self._images: RetrievalModel | None = None
        self._vision: VisionEncoder | None = None

    def models(self) -> Models:
        """All of the archive's checkpoints. Raises CheckpointError."""
        if self._models is None:
            self._models = archive_models(self._recipe, *self._names)
        return self._models

    def retrieval(self) -> Checkpoint | None:
        """The retrieval model's checkpoint, None for an archive without vectors. Raises CheckpointError."""
        if self._retrieval is None:
            self._retrieval = archive_retrieval(self._recipe, *self._names)
        return self._retrieval

    def of_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, V]. Raises CheckpointError, and ConfigError for an archive without vectors."""
        if self._texts is None:
            from malmm.model.towers.blip2_text import TextTower

            self._texts = TextTower.load(_there(self.retrieval()))
        return self._texts.vectors(texts)

    def of_image(self, path: Path) -> np.ndarray:
        """Unit vectors float32 [Q, V] of an image file. Raises ConfigError for a file that is not an image."""
        import torch
        from PIL import Image, UnidentifiedImageError

        from malmm.model.families.instructblip.vision import VisionEncoder

        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except FileNotFoundError as error:
            raise ConfigError(f"no such image: {path}") from error
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ConfigError(f"{path} is not an image that can be read: {error}") from error
        if self._vision is None:
            self._vision = VisionEncoder.load(self.models().instructblip, dtype=torch.float32).eval()
        side = self._vision.image_size
        squashed = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        with torch.inference_mode():
            tokens = self._vision(torch.from_numpy(squashed.copy())[None])
        return self.image_model().slot_vectors(tokens)[0].cpu().numpy()

    def matches(self, tokens: Sequence[np.ndarray], text: str) -> list[float]:
        """Probabilities, by the matching head, that each slot (tokens [N, C]) matches a text."""
        import torch

        stacked = torch.from_numpy(np.stack(tokens).astype(np.float32))
        return list(self.image_model().match(stacked, [text] * len(tokens)).tolist())

    def image_model(self) -> RetrievalModel:
        """The retrieval model with its image tower.

        Raises CheckpointError, and ConfigError for an archive without vectors.
        """
        if self._images is None:
            # torch and transformers take seconds to load.
            from malmm.model.towers.blip2 import RetrievalModel

            models = self.models()
            # The image encoders were compared when the archive was made, and fingerprints show the same weights.
            self._images = RetrievalModel.load(
                _there(models.retrieval), instructblip=models.instructblip, check_vision=False
            )
        return self._images


def _there(retrieval: Checkpoint | None) -> Checkpoint:
    if retrieval is None:
        raise ConfigError("the archive has no retrieval model: index it anew with one")
    return retrieval
