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


@dataclass(frozen=True)
class Like:
    """An example to search by: a moment of a stored video, by its id and seconds on its clock."""

    video_id: str
    at_s: float


@dataclass(frozen=True)
class SearchQuery:
    """A search by exactly one of a text, an image file or an example moment. Raises ConfigError for an invalid query.

    ``k`` is the number of results, ``video_ids`` the videos to search (None for all), ``signals`` what may find a
    moment. ``rerank`` reorders the best results by the matching head; ``exact`` bypasses the approximate index.
    """

    text: str | None = None
    image: Path | None = None
    like: Like | None = None
    k: int = 10
    video_ids: tuple[str, ...] | None = None
    signals: tuple[str, ...] = SIGNALS
    rerank: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.text, self.image, self.like)) != 1:
            raise ConfigError("search for one thing: a text, an image, or a moment")
        if self.text is not None and not self.text.strip():
            raise ConfigError("an empty query finds nothing: give a few words, such as 'a red car'")
        if not 1 <= self.k <= MAX_K:
            raise ConfigError(f"-k {self.k}: from 1 to {MAX_K} results")
        if not self.signals or set(self.signals) - set(SIGNALS):
            raise ConfigError(f"signals {list(self.signals)}: one or more of {', '.join(SIGNALS)}")
        if self.rerank and self.text is None:
            raise ConfigError(
                "only results of a text can be re-ranked: the matching head compares pictures with words"
            )

    @property
    def words(self) -> str | None:
        """The text to search annotations for; None if only vectors are to be compared."""
        return self.text if "text" in self.signals else None

    @property
    def compares_vectors(self) -> bool:
        """Whether vectors are compared. An image or example can be searched in no other way."""
        return "vectors" in self.signals or self.text is None

    @property
    def candidates(self) -> int:
        """Number of candidates from which the results are taken."""
        return max(_CANDIDATES, _CANDIDATES_A_RESULT * self.k)
