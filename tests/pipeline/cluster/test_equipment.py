from __future__ import annotations

import os
from pathlib import Path

import pytest

from malmm.pipeline.cluster.equipment import Equipment, least_of, this_machine
from malmm.pipeline.schema.errors import WorkerError

RAM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("said", "ram"), [("max\n", RAM), ("1073741824\n", 1 << 30), (f"{1 << 62}\n", RAM), (None, RAM)]
)
def test_memory_is_the_machines_or_the_containers(said: str | None, ram: int, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    if said is not None:
        limit.write_text(said)
    assert this_machine([str(limit)], drivers=[]) == Equipment(ram)


@pytest.mark.parametrize(
    ("machines", "least"),
    [
        ([Equipment(8)], Equipment(8)),
        ([Equipment(8), Equipment(4)], Equipment(4)),
        ([Equipment(8), Equipment(4, 24)], Equipment(4, 24)),
        ([Equipment(1), Equipment(8, 80), Equipment(9, 24)], Equipment(8, 24)),
    ],
)
def test_workers_are_where_cards_are_if_there_are_any(machines: list[Equipment], least: Equipment) -> None:
    assert least_of(machines) == least


def test_a_cluster_without_machines_is_an_error() -> None:
    with pytest.raises(WorkerError, match="--model"):
        least_of([])
