"""Counting the operations of a vision encoder by its weights: matrix products, two operations a multiplication."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

from torch import nn

__all__ = ["encoder_flop", "product_flop"]

# Tables that are looked up or added.
_TABLES = re.compile(r"position_embedding|pos_embed|class_embedding")


def product_flop(parameters: Iterable[tuple[str, nn.Parameter]], rows: int) -> int:
    """Operations of ``rows`` vectors through the matrices and kernels among named parameters."""
    weights = (value for name, value in parameters if value.ndim >= 2 and not _TABLES.search(name))
    return 2 * rows * sum(prod(value.shape) for value in weights)


def encoder_flop(
    parameters: Iterable[tuple[str, nn.Parameter]], tokens: int, *, layers: int, width: int
) -> int:
    """Operations of a vision transformer on ``tokens`` patches: its weights, and attention of all to all."""
    return product_flop(parameters, tokens) + 4 * layers * tokens**2 * width
