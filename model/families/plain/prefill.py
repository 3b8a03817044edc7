"""One prefill for many prompts: the keys and values of what they share, copied for each of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

__all__ = ["Prefill", "common_length"]


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with alike, one fewer than the shortest row at most.

    Ids are compared and not text: a tokenizer may join letters over the seam of two texts.
    """
    most = min(map(len, rows)) - 1
    first = rows[0]
    return next((place for place in range(most) if any(row[place] != first[place] for row in rows)), most)


@dataclass(frozen=True)
class Prefill:
    """What a language model holds after ``length`` ids. Use ``rows`` for each continuation.

    ``offset`` is what Qwen's positions in three dimensions differ by from the count of ids; transformers keeps it on
    the model, where the next call would find the last one's. ``in_place`` is true for models with layers that change
    their state in place, whose copies have to be deep.
    """

    cache: DynamicCache
    length: int
    offset: Tensor | None
    in_place: bool

    def positions(self, *, rows: int, length: int) -> dict[str, Tensor]:
        """The argument for positions of what follows, for models that do not count them on by themselves."""
        if self.offset is None:
            return {}
        counted = torch.arange(self.length, self.length + length, device=self.offset.device)
        return {"position_ids": (counted + self.offset).expand(3, rows, -1)}

    def rows(self, model: Any, count: int = 1) -> DynamicCache:
        """A cache of ``count`` equal rows to continue from, with the model's positions set to go on from it."""
        if self.offset is not None:
            model.model.rope_deltas = self.offset.clone()
        if self.in_place:
            cache = copy.deepcopy(self.cache)
            if count > 1:
                cache.reorder_cache(torch.zeros(count, dtype=torch.long, device=model.device))
            return cache
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        if count > 1:
            cache.batch_repeat_interleave(count)
        return cache
