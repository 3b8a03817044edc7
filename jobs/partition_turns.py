"""Take the partitions of a job one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from malmm.pipeline.schema.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE, worst_code
from malmm.pipeline.schema.partition import all_partitions

__all__ = ["Turn", "in_turn"]


@dataclass(frozen=True)
class Turn:
    """How a partition's turn ended: its exit code, and whether it has still to prune, once the others have listed."""

    code: int
    prunes_later: bool = False


def in_turn(number: int, perform: Callable[[int], Turn]) -> int:
    """Perform each partition by its index, and return the worst exit code.

    A partition that failed does not keep others from their turn; an interruption and wrong usage end them all. Those
    that prune later get a second turn at the end, when all have listed.
    """
    turns: dict[int, Turn] = {}
    for again in (False, True):
        for each in all_partitions(number):
            if again and not turns[each.index].prunes_later:
                continue
            turns[each.index] = perform(each.index)
            if turns[each.index].code in (EXIT_INTERRUPTED, EXIT_USAGE):
                return turns[each.index].code
    return worst_code(turn.code for turn in turns.values())
