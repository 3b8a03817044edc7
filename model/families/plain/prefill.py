"""One prefill for many prompts: the KV cache of their common prefix, copied for each prompt."""

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
    """Length of the common prefix of all rows; at most one less than the shortest row.

    Compares ids, not text: a tokenizer may merge letters across the boundary of two texts.
    """
    most = min(map(len, rows)) - 1
    first = rows[0]
    return next((place for place in range(most) if any(row[place] != first[place] for row in rows)), most)


@dataclass(frozen=True)
class Prefill:
    """A language model's cache after ``length`` ids. Call ``rows`` for each continuation.

    ``offset`` is the difference between Qwen's three-dimensional positions and the number of ids. transformers keeps it
    on the model, where the next call would find that of the call before. ``in_place`` is true for models whose layers
    change their state in place, so that copies must be deep.
    """

    cache: DynamicCache
    length: int
    offset: Tensor | None
    in_place: bool

    def positions(self, *, rows: int, length: int) -> dict[str, Tensor]:
        """The position argument for the ids that follow, for models that do not compute it themselves."""
        if self.offset is None:
            return {}
        counted = torch.arange(self.length, self.length + length, device=self.offset.device)
        return {"position_ids": (counted + self.offset).expand(3, rows, -1)}

    def rows(self, model: Any, count: int = 1) -> DynamicCache:
        """A copy of the cache with ``count`` equal rows, to continue from. Sets the model's position offset."""
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
