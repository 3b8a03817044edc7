"""Partitions in turn: each has one, a failure ends no other's, and those that prune later have a second."""

from __future__ import annotations

import pytest

from malmm.jobs.partition_turns import Turn, in_turn


@pytest.mark.parametrize(
    ("turns", "taken", "code"),
    [
        ({}, [0, 1, 2], 0),
        ({(1, 0): Turn(3)}, [0, 1, 2], 3),
        ({(0, 0): Turn(1), (1, 0): Turn(3)}, [0, 1, 2], 1),
        ({(1, 0): Turn(130)}, [0, 1], 130),
        ({(0, 0): Turn(2)}, [0], 2),
        ({(0, 0): Turn(0, True), (1, 0): Turn(3, True)}, [0, 1, 2, 0, 1], 0),
        ({(0, 0): Turn(0, True), (0, 1): Turn(0, True)}, [0, 1, 2, 0], 0),
        ({(0, 0): Turn(0, True), (0, 1): Turn(130)}, [0, 1, 2, 0], 130),
    ],
)
def test_each_has_its_turn(turns: dict[tuple[int, int], Turn], taken: list[int], code: int) -> None:
    seen: list[int] = []

    def perform(index: int) -> Turn:
        seen.append(index)
        return turns.get((index, seen.count(index) - 1), Turn(0))

    assert in_turn(3, perform) == code
    assert seen == taken
