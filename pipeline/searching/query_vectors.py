"""Turn query texts and images into vectors. Loads only the parts of the models that a query needs.

A text goes through the text side of the retrieval model: for BLIP-2 in numpy, without torch, and for every retrieval
model without its image encoder and without the language model. An image needs the image encoder, and re-ranking the
matching head.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from malmm.model.towers.registry import row_of, text_vectors_of, tower_of
from malmm.pipeline.archive.recipe_models import archive_models, archive_retrieval
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.model.checkpoints.checkpoint import Checkpoint
    from malmm.model.checkpoints.resolve import Models
    from malmm.model.towers.blip2 import RetrievalModel
    from malmm.model.towers.tower import PictureVectors, TextVectors

__all__ = ["QueryVectors"]


class QueryVectors:
    """Loads each part of the models at the first query that needs it, and keeps it.

    ``names`` are the paths or ids of the archive's model and retrieval model, if not those recorded in the archive.
    """

    def __init__(self, recipe: Recipe, names: tuple[str | None, str | None] = (None, None)) -> None:
        self._recipe, self._names = recipe, names
        self._retrieval: Checkpoint | None = None
        self._models: Models | None = None
        self._texts: TextVectors | None = None
        self._pictures: PictureVectors | None = None
        self._matching: RetrievalModel | None = None
        # Tokenizers are not thread-safe, and a page searches in several threads.
        self._encoding = threading.Lock()

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
        with self._encoding:
            if self._texts is None:
                self._texts = text_vectors_of(_there(self.retrieval()))
            return self._texts.vectors(texts)

    def of_image(self, path: Path) -> np.ndarray:
        """Unit vectors float32 [Q, V] of an image file. Raises ConfigError for a file that is not an image."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except FileNotFoundError as error:
            raise ConfigError(f"no such image: {path}") from error
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ConfigError(f"{path} is not an image that can be read: {error}") from error
        if self._pictures is None:
            tower = _there(self.retrieval())
            self._pictures = tower_of(tower).load_pictures(tower, model=lambda: self.models().checkpoint)
        return self._pictures.of_picture(np.array(picture))

    def matches(self, tokens: Sequence[np.ndarray], text: str) -> list[float]:
        """Probabilities, by the matching head, that each slot (tokens [N, C]) matches a text.

        Raises CheckpointError, and ConfigError for a retrieval model without a matching head.
        """
        import torch

        stacked = torch.from_numpy(np.stack(tokens).astype(np.float32))
        return list(self.matching_model().match(stacked, [text] * len(tokens)).tolist())

    def matching_model(self) -> RetrievalModel:
        """The retrieval model with its matching head. Raises as ``matches`` does."""
        if self._matching is None:
            retrieval = _there(self.retrieval())
            if not row_of(retrieval).can_match:
                raise ConfigError(
                    f"the archive's retrieval model {retrieval.name!r} is {row_of(retrieval).name}, which has no "
                    "matching head: search without --rerank"
                )
            # torch and transformers take seconds to load.
            from malmm.model.towers.blip2 import RetrievalModel

            # The image encoders were compared when the archive was made, and fingerprints show the same weights.
            self._matching = RetrievalModel.load(
                retrieval, instructblip=self.models().checkpoint, check_vision=False
            )
        return self._matching


def _there(retrieval: Checkpoint | None) -> Checkpoint:
    if retrieval is None:
        raise ConfigError(
            "the archive has no retrieval model: run malmm index with --retrieval-model and --reindex"
        )
    return retrieval
