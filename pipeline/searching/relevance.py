"""Decide from which similarity on a moment is relevant to a text.

Cosines of image-text models have no fixed scale, and a threshold alone is not enough: words that a model never learnt
may be close to everything, and the best of many slots is always close. So the best slot must exceed the text's mean
similarity with a background by a number of standard deviations, which grows with the number of slots searched. A
checkpoint may come with a background (``background.safetensors``), vectors of slots that belong to no archive, and with
the threshold that was measured for it (``relevance_threshold`` in its config.json).

For other checkpoints the background is a sample of the archive's own slots: most of them are unrelated to any one text.

An archive of few slots has no background. Its captions give a threshold: a caption should be closer to the slots of its
own segment than to those of others. The threshold is where both kinds of errors (own slots below, other slots above)
are equally frequent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from malmm.model.towers.registry import vector_size
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.model.checkpoints.checkpoint import Checkpoint

__all__ = [
    "BACKGROUND_FILE",
    "Background",
    "Relevance",
    "balanced_threshold",
    "own_background",
    "relevance_of",
]

BACKGROUND_FILE = "background.safetensors"
_KEY = "relevance_threshold"
_CAPTIONS = 64
_FEWEST_CAPTIONS = 4
# In fewer slots each thing that is there takes a large share of them, and hides itself.
_OWN_SLOTS, _FEWEST_OWN_SLOTS = 256, 200


@dataclass(frozen=True)
class Background:
    """Unit vectors [B, Q, V] of unrelated slots, and by how much a relevant slot has to exceed them.

    ``contrasts`` are pairs (number of slots searched, standard deviations to be exceeded), in ascending order.
    Interpolated over the logarithm of the number; constant beyond the ends.
    """

    vectors: np.ndarray
    contrasts: tuple[tuple[int, float], ...]

    @classmethod
    def load(cls, path: Path) -> Background:
        """Load a safetensors file with ``vectors``, and ``contrasts`` as JSON in its metadata. Raises ConfigError."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                vectors = file.get_tensor("vectors").astype(np.float32)
                contrasts = [(int(n), float(c)) for n, c in json.loads((file.metadata() or {})["contrasts"])]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path} is not a background of a retrieval model: {error}") from error
        if vectors.ndim != 3 or not vectors.size or min((n for n, _ in contrasts), default=0) < 1:
            raise ConfigError(
                f"{path} is not a background of a retrieval model: {vectors.shape}, {contrasts}"
            )
        return cls(vectors, tuple(sorted(contrasts)))

    def level(self, query: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of a text's similarities with the background; ``query`` is a unit vector [V]."""
        nearest = (self.vectors @ query).max(axis=1)
        return float(nearest.mean()), float(nearest.std())

    def cosine(self, query: np.ndarray, slots: int) -> float:
        """The cosine that the best of so many slots has to reach."""
        mean, deviation = self.level(query)
        numbers, contrasts = zip(*self.contrasts, strict=True)
        return mean + deviation * float(np.interp(np.log(max(1, slots)), np.log(numbers), contrasts))


@dataclass(frozen=True)
class Relevance:
    """The rule for relevance: a fixed ``threshold``, and a background that may raise it for a text."""

    threshold: float
    background: Background | None = None

    def cosine(self, query: np.ndarray, slots: int) -> float:
        """The cosine from which on the best of so many slots is relevant to a text of this unit vector [V]."""
        if self.background is None:
            return self.threshold
        return max(self.threshold, self.background.cosine(query, slots))


def relevance_of(
    archive: ArchiveReader,
    retrieval: Checkpoint | None,
    text_vectors: Callable[[Sequence[str]], np.ndarray],
) -> Relevance:
    """The rule for relevance in an archive. Without any evidence everything is relevant (a threshold of -1).

    ``retrieval`` is the archive's retrieval model, and ``text_vectors`` returns unit vectors [B, V] of texts by it.
    Raises ConfigError for a background that cannot be read.
    """
    background = None
    if retrieval is not None and (path := retrieval.directory / BACKGROUND_FILE).is_file():
        background = Background.load(path)
        size = vector_size(retrieval)
        if background.vectors.shape[2] != size:
            raise ConfigError(
                f"{path} has vectors of {background.vectors.shape[2]} numbers, and the model of {size}"
            )
    stated = None if retrieval is None else retrieval.config.get(_KEY)
    threshold = float(stated) if isinstance(stated, (int, float)) else None
    if background is None and threshold is None:
        sample = archive.slots.sampled_vectors(_OWN_SLOTS)
        if len(sample) >= _FEWEST_OWN_SLOTS:
            return Relevance(-1.0, own_background(sample))
    return Relevance(_by_captions(archive, text_vectors) if threshold is None else threshold, background)


def own_background(vectors: np.ndarray) -> Background:
    """An archive's own slots, unit vectors [B, Q, V], as a background.

    The best of so many slots that have nothing to do with a text stands out by the median of the largest of so many
    normally distributed numbers: that is what has to be exceeded.
    """
    numbers = [round(10 ** (power / 4)) for power in range(33)]
    contrasts = {number: NormalDist().inv_cdf(0.5 ** (1 / number)) for number in numbers}
    return Background(vectors.astype(np.float32), tuple(contrasts.items()))


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
    """The threshold at which the share of ``own`` below it equals the share of ``others`` at or above it.

    Neither may be empty.
    """
    candidates = np.unique(np.concatenate([own, others]))
    missed = np.searchsorted(np.sort(own), candidates, side="left") / len(own)
    taken = 1 - np.searchsorted(np.sort(others), candidates, side="left") / len(others)
    return float(candidates[np.argmin(np.abs(missed - taken))])
