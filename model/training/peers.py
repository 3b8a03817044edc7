"""The workers of one training: each computes a part of every batch, and all add up what they found."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Alone", "Peers", "ProcessGroup"]


class Peers(Protocol):
    """All workers of a training, as one of them sees them. ``rank`` is its number of ``count``."""

    @property
    def rank(self) -> int:
        """This worker's number, from 0."""

    @property
    def count(self) -> int:
        """How many workers there are."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over all workers, each of which calls this with values of one shape."""


class Alone:
    """A training by one worker."""

    rank, count = 0, 1

    def total(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


class ProcessGroup:
    """The workers of torch's process group, which must have been started."""

    def __init__(self) -> None:
        self.rank, self.count = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def total(self, values: Tensor) -> Tensor:
        """The sum over the group."""
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed
