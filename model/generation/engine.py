"""The interface of an engine, which answers many requests, and the requests.

An engine decides what is computed together. It answers in the order of the requests; one that cannot be answered fails
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from malmm.model.batch_limit import Mishap
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, LabelScores

__all__ = ["Choice", "Engine", "Request"]


@dataclass(frozen=True, eq=False)
class Request:
    """A request for texts that are generated with these settings."""

    asked: Asked
    decoding: Decoding


@dataclass(frozen=True, eq=False)
class Choice:
    """A request for the probabilities of labels."""

    asked: Asked
    labels: tuple[str, ...]


class Engine(Protocol):
    """Answers requests. A Mishap stands for one that cannot be answered."""

    @property
    def device_lost(self) -> bool:
        """Whether the GPU stopped answering, so that nothing more can be done in this process."""

    def texts(
        self, requests: Sequence[Request], *, on_words: Callable[[str], None] | None = None
    ) -> list[list[str] | Mishap]:
        """``decoding.returned`` texts for each request, the best first.

        If there is one request, ``on_words`` is called with the words of its text as they come; with those of beams at
        the end.
        """

    def scores(self, choices: Sequence[Choice]) -> list[LabelScores | Mishap]:
        """The probability of each label as a continuation of its prompt."""
