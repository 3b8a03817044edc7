"""The engine that is used by default: transformers' models, in batches that are cut by their size in memory.

Requests of many segments and prompts with equal settings are generated together. They are sorted by length, so that
little is padded, and those on one memory stay side by side, since they share its prefill.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, LabelScores, LanguagePart
from malmm.model.generation.engine import Choice, Request
from malmm.model.generation.sizes import budget_bytes, label_bytes, text_bytes

__all__ = ["TransformersEngine"]

_Result = TypeVar("_Result")
_How = TypeVar("_How", bound=Hashable)
# A token of a label has a byte at least, and words have about four.
_BYTES_A_LABEL_TOKEN = 2


class TransformersEngine:
    """Answers requests with a family's language part.

    ``most_bytes`` is what a batch may take of the memory at first, see ``sizes.budget_bytes``; it is halved each time
    that memory runs out.
    """

    def __init__(self, language: LanguagePart, device: torch.device, most_bytes: int | None = None) -> None:
        self.language = language
        self._batches = BatchLimit(device, budget_bytes(device) if most_bytes is None else most_bytes)

    @property
    def device_lost(self) -> bool:
        """As ``Engine``."""
        return self._batches.device_lost

    def texts(
        self, requests: Sequence[Request], *, on_words: Callable[[str], None] | None = None
    ) -> list[list[str] | Mishap]:
        """As ``Engine``."""

        tell = on_words if len(requests) == 1 else None

        def work(asked: Sequence[Asked], decoding: Decoding) -> list[list[str]]:
            if tell is not None and decoding.num_beams == 1:
                return [[text] for text in self.language.generate_texts(asked, decoding, on_words=tell)]
            made = self.language.candidate_texts(asked, decoding)
            if tell is not None:
                tell(made[0][0])
            return made

        def size(tokens: int, decoding: Decoding) -> int:
            return text_bytes(self.language.model, tokens, decoding)

        return self._answered(
            [request.asked for request in requests], [r.decoding for r in requests], size, work
        )

    def scores(self, choices: Sequence[Choice]) -> list[LabelScores | Mishap]:
        """As ``Engine``."""

        def size(tokens: int, labels: tuple[str, ...]) -> int:
            longest = max((len(label.encode()) for label in labels), default=0)
            return label_bytes(self.language.model, tokens, len(labels), 1 + longest // _BYTES_A_LABEL_TOKEN)

        def work(asked: Sequence[Asked], labels: tuple[str, ...]) -> list[LabelScores]:
            return self.language.score_labels(asked, labels)

        return self._answered([choice.asked for choice in choices], [c.labels for c in choices], size, work)

    def _answered(
        self,
        asked: Sequence[Asked],
        how: Sequence[_How],
        size: Callable[[int, _How], int],
        work: Callable[[Sequence[Asked], _How], Sequence[_Result]],
    ) -> list[_Result | Mishap]:
        """Results of all requests, in their order. Those that are to be answered alike are batched together."""
        lengths = BatchLimit(self._batches.device).results(
            asked, lambda some: [self.language.prompt_tokens(each) for each in some]
        )
        found: dict[int, _Result | Mishap] = {}
        groups: defaultdict[_How, dict[int, int]] = defaultdict(dict)
        for place, length in enumerate(lengths):
            if isinstance(length, Mishap):
                found[place] = length
            else:
                groups[how[place]][place] = length
        for alike, tokens in groups.items():
            order = _longest_first(asked, tokens)
            results = self._batches.results(
                [asked[place] for place in order],
                partial(_with, work, alike),
                sizes=[size(tokens[place], alike) for place in order],
            )
            found.update(zip(order, results, strict=True))
        return [found[place] for place in range(len(asked))]


def _with(
    work: Callable[[Sequence[Asked], _How], Sequence[_Result]], how: _How, asked: Sequence[Asked]
) -> Sequence[_Result]:
    return work(asked, how)


def _longest_first(asked: Sequence[Asked], tokens: dict[int, int]) -> list[int]:
    """Places of requests, by falling length; those on one memory behind the longest of them."""
    memories: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place in tokens:
        slots = asked[place].slots
        memories[place if slots is None else (id(slots), asked[place].system)].append(place)
    sorted_each = [sorted(places, key=lambda place: -tokens[place]) for places in memories.values()]
    sorted_each.sort(key=lambda places: -tokens[places[0]])
    return [place for places in sorted_each for place in places]
