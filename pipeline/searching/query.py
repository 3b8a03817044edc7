"""A search as one object, from the caller to the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["MAX_K", "SIGNALS", "Like", "SearchQuery"]

SIGNALS = ("vectors", "text")
MAX_K = 1000
# Candidates: enough for neighbours to be among them, and for a level of what has nothing to do with the query.
_CANDIDATES, _CANDIDATES_A_RESULT = 100, 10


@dataclass(frozen=True)
class Like:
    """A moment of a video to find more like: its id and seconds on its clock."""

    video_id: str
    at_s: float


@dataclass(frozen=True)
class SearchQuery:
    """A search for one thing: a text, an image file, or a moment. Raises ConfigError for a query that cannot be.

    ``k`` is how many results are wanted, ``video_ids`` the videos to search (all without), ``signals`` what may find a
    moment. ``rerank`` orders the best by the matching head; ``exact`` passes the approximate index by.
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
        """The text to look up in annotations; None where they may find nothing."""
        return self.text if "text" in self.signals else None

    @property
    def compares_vectors(self) -> bool:
        """Whether vectors may find a moment. Pictures and moments have nothing else to be found by."""
        return "vectors" in self.signals or self.text is None

    @property
    def candidates(self) -> int:
        """How many candidates the results are taken from."""
        return max(_CANDIDATES, _CANDIDATES_A_RESULT * self.k)
