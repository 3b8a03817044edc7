"""Why a moment was found, and why in this place: what each signal gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from malmm.pipeline.searching.fusion import TEXTS_SHARE, Moment, worth

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What each signal gave a moment.

    ``similarity`` is its best slot's cosine with the query, and ``threshold`` the cosine from which on the best slot of
    the search is relevant; None where nothing was compared, or the query is not a text. ``vector_rank`` and
    ``word_rank`` are its places in the two lists, from 1, and ``vector_score`` and ``word_score`` what they add to the
    score of fusion. ``parts`` are the cosines with each part of a query of several (``combined``), of which
    ``similarity`` is made. A moment's neighbours that were joined to it add nothing.
    """

    similarity: float | None
    threshold: float | None
    vector_rank: int | None
    vector_score: float
    word_rank: int | None
    word_score: float
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_relevant(self) -> bool | None:
        """Whether its similarity reaches the threshold; None where there is none of the two."""
        if self.similarity is None or self.threshold is None:
            return None
        return self.similarity >= self.threshold

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"is_relevant": self.is_relevant}

    def __str__(self) -> str:
        """For people."""
        parts = []
        if self.vector_rank is not None:
            nearness = f"similarity {self.similarity:.3f}" if self.similarity is not None else "vectors"
            if self.threshold is not None:
                said = "relevant" if self.is_relevant else "not relevant"
                nearness += f" ({said}: from {self.threshold:.3f} on)"
            if self.parts:
                nearness += f" of {', '.join(f'{name} {cosine:.3f}' for name, cosine in self.parts.items())}"
            parts.append(f"{nearness}, place {self.vector_rank} by vectors: {self.vector_score:.5f}")
        if self.word_rank is not None:
            parts.append(f"place {self.word_rank} by words: {self.word_score:.5f}")
        return f"{' + '.join(parts)} = {self.score:.5f}"


def explain(moment: Moment, threshold: float | None = None) -> Explanation:
    """Explain a moment's score. ``threshold`` is the search's for relevance."""
    ranks = (moment.vector_rank, moment.text_rank)
    return Explanation(
        similarity=moment.similarity,
        threshold=threshold if moment.similarity is not None else None,
        vector_rank=None if ranks[0] is None else ranks[0] + 1,
        vector_score=0.0 if ranks[0] is None else worth(ranks[0]),
        word_rank=None if ranks[1] is None else ranks[1] + 1,
        word_score=0.0 if ranks[1] is None else TEXTS_SHARE * worth(ranks[1]),
        score=moment.score,
        parts=dict(moment.slot.parts) if moment.slot is not None else {},
    )
