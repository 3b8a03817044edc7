from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray
from ray.exceptions import GetTimeoutError, RayError

from malmm.pipeline.cluster import connection
from malmm.pipeline.cluster.equipment import Equipment, least_of, this_machine, workers_equipment
from malmm.pipeline.schema.cluster_use import ClusterUse
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


_NODE_ID_DIGITS = 56


class Nodes:
    """Stands in for a Ray cluster: nodes, each of which says what it has. Of `d` and `e`, one has no CPU for tasks and
    one is gone."""

    MACHINES: ClassVar[dict[str, Equipment]] = {"a": Equipment(64, 24), "b": Equipment(32, 16)}

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error: Exception | None = None
        for name in ("nodes", "remote", "get"):
            monkeypatch.setattr(ray, name, getattr(self, name))
        monkeypatch.setattr(connection, "connection", lambda **_: contextlib.nullcontext())
        monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": name * _NODE_ID_DIGITS,
                "Alive": name != "e",
                "Labels": {"zone": name},
                "Resources": {"CPU": float(name != "d"), "GPU": 1.0},
            }
            for name in "deab"
        ]

    def remote(self, function: object) -> Nodes:
        return self

    def options(self, **options: Any) -> SimpleNamespace:
        self.asked.append(options)
        return SimpleNamespace(remote=lambda: options["scheduling_strategy"].node_id)

    def get(self, answers: list[str], *, timeout: float) -> list[Equipment]:
        if self.error is not None:
            raise self.error
        return [self.MACHINES[name[0]] for name in answers]


def test_each_node_that_the_run_may_use_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch)
    assert workers_equipment() == Equipment(32, 16)
    assert [options["num_gpus"] for options in nodes.asked] == [0.01, 0.01]
    assert workers_equipment(use=ClusterUse(labels=(("zone", "a"),))) == Equipment(64, 24)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GetTimeoutError(), r"^the workers did not answer within 120 s .*: name one with --model$"),
        (
            RayError("torch\nis broken"),
            r"^the workers cannot say .* \(torch is broken\): name a model with --model$",
        ),
    ],
)
def test_nodes_that_do_not_answer_are_an_error_with_a_way_out(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Nodes(monkeypatch).error = error
    with pytest.raises(WorkerError, match=said):
        workers_equipment()
