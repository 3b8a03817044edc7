"""What is asked of an archive, as one object from the caller to the tables: a search or a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.pipeline.searching.asker import Answer

__all__ = ["MAX_K", "SIGNALS", "Like", "Question", "SearchQuery"]

SIGNALS = ("vectors", "text")
MAX_K = 1000
# Candidates: enough for neighbours to be among them, and for a level of what has nothing to do with the query.
_CANDIDATES, _CANDIDATES_A_RESULT = 100, 10
_MOST_ANSWERS = 100


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


def _ignored(_: Any) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Question:
    """A question and how to answer it. Raises ConfigError for one that cannot be.

    Unless ``whole``, the videos named also answer by the segments of their best moments. ``k`` is how many segments
    answer at most. ``threshold`` is the cosine that the best moment has to reach, by default the archive's own.
    ``on_begun`` is called with each answer before it has a text, ``on_words`` then with that text's words as they come;
    an exception of either ends the asking.
    """

    text: str
    video_ids: tuple[str, ...] | None = None
    k: int = 3
    threshold: float | None = None
    whole: bool = True
    on_begun: Callable[[Answer], None] = _ignored
    on_words: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ConfigError("an empty question has no answer: ask something, such as 'What happens?'")
        if not 1 <= self.k <= _MOST_ANSWERS:
            raise ConfigError(f"-k {self.k}: from 1 to {_MOST_ANSWERS} answers")
