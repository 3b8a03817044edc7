"""The learning rate over a training: up in a straight line, then down along a cosine."""

from __future__ import annotations

import math

__all__ = ["warm_cosine"]


def warm_cosine(step: int, warm: int, steps: int, floor: float = 0.0) -> float:
    """A learning rate's factor: up in ``warm`` steps, then down along a cosine to ``floor`` (Loshchilov and Hutter,
    2017, arXiv 1608.03983, without restarts)."""
    if step < warm:
        return (step + 1) / warm
    turn = math.pi * min(1, (step - warm) / max(1, steps - warm))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(turn))
