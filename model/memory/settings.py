"""Memory settings of a pass over a video, and the order in which segments are batched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmm.model.memory.merge_policies import merge_policy

__all__ = ["MemorySettings", "falling_order"]


@dataclass(frozen=True)
class MemorySettings:
    """Memory settings. ``length`` is M; ``visual`` and ``query`` switch each kind of bank on or off.

    Raises ValueError for a length below one and for an unknown policy.
    """

    length: int = 20
    policy: str = "token"
    visual: bool = True
    query: bool = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a bank length of {self.length}: at least 1; switch a bank off instead")
        merge_policy(self.policy)


def falling_order(lengths: Sequence[int]) -> list[int]:
    """Indices that sort ``lengths`` in descending order; stable."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
