"""A search query as one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["MAX_K", "SIGNALS", "Like", "SearchQuery"]

SIGNALS = ("vectors", "text")
MAX_K = 1000
# Enough candidates that neighbours are among them, and that the last ones are unrelated to the query.
_CANDIDATES, _CANDIDATES_A_RESULT = 100, 10
# What should not be there may be in most of the best candidates.
_MORE_WITHOUT = 4
_MOST_PARTS = 10


@dataclass(frozen=True)
class Like:
    """An example to search by: a moment of a stored video, by its id and seconds on its clock."""

    video_id: str
    at_s: float


@dataclass(frozen=True)
class SearchQuery:
    """A search by a text, an image file, example moments, or several of these together. Raises ConfigError.

    ``like`` is an example moment, and ``examples`` are more of them; ``without`` are words that a moment should not
    fit. ``k`` is the number of results, ``video_ids`` the videos to search (None for all), ``where`` a filter
    (``archive.filters``), and ``signals`` what may find a moment. ``rerank`` reorders the best results by the matching
    head; ``exact`` bypasses the approximate index.
    """

    text: str | None = None
    image: Path | None = None
    like: Like | None = None
    k: int = 10
    video_ids: tuple[str, ...] | None = None
    signals: tuple[str, ...] = SIGNALS
    rerank: bool = False
    exact: bool = False
    where: str | None = None
    examples: tuple[Like, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.text is None and self.image is None and not self.likes:
            raise ConfigError("nothing to search for: give a text, an image, or a moment")
        for text in (*([] if self.text is None else [self.text]), *self.without):
            if not text.strip():
                raise ConfigError("an empty query finds nothing: give a few words, such as 'a red car'")
        if len(self.likes) > _MOST_PARTS or len(self.without) > _MOST_PARTS:
            raise ConfigError(
                f"at most {_MOST_PARTS} example moments, and as many things that should not be there"
            )
        if not 1 <= self.k <= MAX_K:
            raise ConfigError(f"-k {self.k}: from 1 to {MAX_K} results")
        if not self.signals or set(self.signals) - set(SIGNALS):
            raise ConfigError(f"signals {list(self.signals)}: one or more of {', '.join(SIGNALS)}")
        if self.rerank and (self.text is None or self.is_combined):
            raise ConfigError(
                "only results of a text alone can be re-ranked: the matching head compares pictures with words"
            )

    @property
    def likes(self) -> tuple[Like, ...]:
        """All example moments."""
        return (*(() if self.like is None else (self.like,)), *self.examples)

    @property
    def is_combined(self) -> bool:
        """Whether it has several parts."""
        return (self.text is not None) + (self.image is not None) + len(self.likes) + len(self.without) > 1

    @property
    def words(self) -> str | None:
        """The text to search annotations for; None if only vectors are to be compared."""
        return self.text if "text" in self.signals else None

    @property
    def compares_vectors(self) -> bool:
        """Whether vectors are compared. An image or example can be searched in no other way."""
        return "vectors" in self.signals or self.image is not None or bool(self.likes)

    @property
    def candidates(self) -> int:
        """Number of candidates from which the results are taken."""
        more = _MORE_WITHOUT if self.without else 1
        return more * max(_CANDIDATES, _CANDIDATES_A_RESULT * self.k)
