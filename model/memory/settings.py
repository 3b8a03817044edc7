"""How much a pass over a video remembers, and the order in which segments advance together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmm.model.memory.policies import merge_policy

__all__ = ["MemorySettings", "falling_order"]


@dataclass(frozen=True)
class MemorySettings:
    """How much a pass remembers. ``visual`` and ``query`` switch each bank; ``length`` is M.

    Raises ValueError for a length below one and for a policy that does not exist.
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
    """Indices of ``lengths`` from the longest on, equal ones in their given order."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
