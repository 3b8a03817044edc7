"""How similar a moment has to be to a text before it counts as being about it.

Cosines of image-text models have no scale of their own. A checkpoint may bring the threshold that was measured with it
(``relevance_threshold`` in its config.json). For others the archive's own captions tell: a caption should be nearer to
the slots of its own segment than to those of others, and the threshold lies where both mistakes are as frequent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from malmm.pipeline.config import CAPTION
from malmm.pipeline.reading import ArchiveReader

if TYPE_CHECKING:
    from malmm.model.checkpoint import Checkpoint

__all__ = ["balanced_threshold", "relevance_threshold"]

_KEY = "relevance_threshold"
_CAPTIONS = 64
_FEWEST_CAPTIONS = 4


def relevance_threshold(
    archive: ArchiveReader,
    retrieval: Checkpoint | None,
    text_vectors: Callable[[Sequence[str]], np.ndarray],
) -> float:
    """The cosine that tells what is relevant; -1, so that everything is, where nothing tells.

    ``retrieval`` is the archive's retrieval model, and ``text_vectors`` gives unit vectors [B, V] of texts by it.
    """
    if retrieval is not None and isinstance(retrieval.config.get(_KEY), (int, float)):
        return float(retrieval.config[_KEY])
    captions = archive.captions(CAPTION.name, limit=_CAPTIONS)
    if len(captions) < _FEWEST_CAPTIONS:
        return -1.0
    words = text_vectors(list(captions.values()))
    nearest = np.full((len(captions), len(captions)), np.nan)
    for place, segment in enumerate(captions):
        vectors = archive.segment_vectors(segment)
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
