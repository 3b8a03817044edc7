"""How similar a moment has to be to a text before it counts as being about it.

Cosines of image-text models have no scale of their own. A checkpoint may bring the threshold that was measured with it
(``relevance_threshold`` in its config.json). For others the archive's own captions tell: a caption should be nearer to
the slots of its own segment than to those of others, and the threshold lies where both mistakes are as frequent.

One threshold is not enough: words that a model never learnt may lie near to everything, and the best of many slots is
always near. So a checkpoint may also bring a background (``background.safetensors``): vectors of slots that have
nothing to do with any archive. The best slot then has to stand out from it by so many standard deviations of the
text's own similarities with it, more among more slots.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.model.checkpoints.checkpoint import Checkpoint

__all__ = ["BACKGROUND_FILE", "Background", "Relevance", "balanced_threshold", "relevance_of"]

BACKGROUND_FILE = "background.safetensors"
_KEY = "relevance_threshold"
_CAPTIONS = 64
_FEWEST_CAPTIONS = 4


@dataclass(frozen=True)
class Background:
    """Slots of no archive: unit vectors [B, Q, V], and by how much to stand out from them.

    ``contrasts`` are pairs of a number of slots searched and the standard deviations to be reached among them, in
    rising order; between two the logarithm of the number decides, beyond the last the last counts.
    """

    vectors: np.ndarray
    contrasts: tuple[tuple[int, float], ...]

    @classmethod
    def load(cls, path: Path) -> Background:
        """From a safetensors file with ``vectors``, and ``contrasts`` as JSON in its metadata. Raises ConfigError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                vectors = file.get_tensor("vectors").astype(np.float32)
                contrasts = [(int(n), float(c)) for n, c in json.loads((file.metadata() or {})["contrasts"])]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is no background of a retrieval model: {error}") from error
        if vectors.ndim != 3 or not vectors.size or min((n for n, _ in contrasts), default=0) < 1:
            raise ConfigError(f"{path} is no background of a retrieval model: {vectors.shape}, {contrasts}")
        return cls(vectors, tuple(sorted(contrasts)))

    def level(self, query: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of a text's similarities with the background; ``query`` is a unit vector [V]."""
        nearest = (self.vectors @ query).max(axis=1)
        return float(nearest.mean()), float(nearest.std())

    def cosine(self, query: np.ndarray, slots: int) -> float:
        """What the best of so many slots has to reach."""
        mean, deviation = self.level(query)
        numbers, contrasts = zip(*self.contrasts, strict=True)
        return mean + deviation * float(np.interp(np.log(max(1, slots)), np.log(numbers), contrasts))


@dataclass(frozen=True)
class Relevance:
    """Tells what is relevant: ``threshold`` whatever is asked, and what a text has to reach among so many slots."""

    threshold: float
    background: Background | None = None

    def cosine(self, query: np.ndarray, slots: int) -> float:
        """The cosine from which on the best of so many slots is about a text of this unit vector [V]."""
        if self.background is None:
            return self.threshold
        return max(self.threshold, self.background.cosine(query, slots))


def relevance_of(
    archive: ArchiveReader,
    retrieval: Checkpoint | None,
    text_vectors: Callable[[Sequence[str]], np.ndarray],
) -> Relevance:
    """What tells relevance in an archive; everything is relevant (a threshold of -1) where nothing tells.

    ``retrieval`` is the archive's retrieval model, and ``text_vectors`` gives unit vectors [B, V] of texts by it.
    Raises ConfigError for a background that cannot be read.
    """
    background = None
    if retrieval is not None and (path := retrieval.directory / BACKGROUND_FILE).is_file():
        background = Background.load(path)
        size = retrieval.config.get("image_text_hidden_size")
        if background.vectors.shape[2] != size:
            raise ConfigError(
                f"{path} has vectors of {background.vectors.shape[2]} numbers, and the model of {size}"
            )
    if retrieval is not None and isinstance(retrieval.config.get(_KEY), (int, float)):
        return Relevance(float(retrieval.config[_KEY]), background)
    return Relevance(_by_captions(archive, text_vectors), background)


def _by_captions(archive: ArchiveReader, text_vectors: Callable[[Sequence[str]], np.ndarray]) -> float:
    captions = archive.captions(CAPTION.name, limit=_CAPTIONS)
    if len(captions) < _FEWEST_CAPTIONS:
        return -1.0
    words = text_vectors(list(captions.values()))
    nearest = np.full((len(captions), len(captions)), np.nan)
    for place, segment in enumerate(captions):
        vectors = archive.slots.segment_vectors(segment)
        if vectors is not None:
            nearest[:, place] = np.einsum("bv,sqv->bsq", words, vectors).max(axis=(1, 2))
    own = np.diag(nearest)
    others = nearest[~np.eye(len(captions), dtype=bool)]
    own, others = own[~np.isnan(own)], others[~np.isnan(others)]
    return balanced_threshold(own, others) if len(own) and len(others) else -1.0


def balanced_threshold(own: np.ndarray, others: np.ndarray) -> float:
    """The threshold at which as large a share of ``own`` lies below as of ``others`` lies at or above it.

    Neither may be empty.
    """
    candidates = np.unique(np.concatenate([own, others]))
    missed = np.searchsorted(np.sort(own), candidates, side="left") / len(own)
    taken = 1 - np.searchsorted(np.sort(others), candidates, side="left") / len(others)
    return float(candidates[np.argmin(np.abs(missed - taken))])
