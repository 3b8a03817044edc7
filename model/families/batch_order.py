"""Run the segments of a batch in lock step: longest first, so that the segments that have ended are always the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from malmm.model.memory.settings import falling_order

__all__ = ["clip_tensor", "frames_order", "in_given_order", "memories_order"]

T = TypeVar("T")


def frames_order(frames: Sequence[np.ndarray], prompts: Sequence[Sequence[str]]) -> list[int]:
    """Indices of the segments, longest first.

    Raises ValueError for a segment without frames, and unless each segment has its prompts.
    """
    if len(frames) != len(prompts):
        raise ValueError(f"{len(frames)} segments and the prompts of {len(prompts)}")
    order = falling_order([len(clip) for clip in frames])
    if not order or not len(frames[order[-1]]):
        raise ValueError("a segment without frames cannot be encoded")
    return order


def memories_order(lengths: Sequence[int], prompts: Sequence[Sequence[str]]) -> list[int]:
    """Indices of memories with these numbers of slots, longest first.

    Raises ValueError for a memory without slots, and unless each memory has its prompts.
    """
    if len(lengths) != len(prompts):
        raise ValueError(f"{len(lengths)} memories and the prompts of {len(prompts)}")
    order = falling_order(lengths)
    if not order or not lengths[order[-1]]:
        raise ValueError("a memory without slots cannot be replayed")
    return order


def in_given_order(results: Sequence[T], order: Sequence[int]) -> list[T]:
    """Results of ``order``, sorted back into the order in which the segments were given."""
    by_index = dict(zip(order, results, strict=True))
    return [by_index[index] for index in range(len(order))]


def clip_tensor(frames: np.ndarray) -> Tensor:
    """The frames as a tensor. Copies them only if they are read-only, as arrays from an object store are."""
    return torch.from_numpy(np.require(frames, requirements=["C", "W"]))
