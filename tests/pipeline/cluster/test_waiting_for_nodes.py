"""A run waits for the nodes that it needs, says for what, and asks the cluster's autoscaler."""

from __future__ import annotations

import re
from typing import Any

import pytest
import ray.autoscaler.sdk

from malmm.pipeline.cluster import placement
from malmm.pipeline.cluster.placement import lacking, wait_for_nodes
from malmm.pipeline.cluster.resources import Node
from malmm.pipeline.schema.cluster_use import ClusterUse
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.progress import Progress

HEAD, CPU, GPU = Node(0), Node(8), Node(8, 1)
SEVEN_BILLION, SMALL = 15_200_000_000, 1_000_000_000


@pytest.mark.parametrize(
    ("nodes", "use", "weights_bytes", "note", "bundles"),
    [
        ([HEAD], ClusterUse(), 0, "waiting for a worker node: 1 node in the cluster, none with a CPU", [{"CPU": 1}]),
        ([], ClusterUse(labels=(("zone", "a"),)), 0, "0 nodes with zone=a in the cluster, none with", [{"CPU": 1}]),
        ([HEAD, CPU], ClusterUse(nodes=4), 0, "1 of 4 are there.*smaller --nodes", [{"CPU": 8}] * 4),
        ([HEAD, CPU, GPU], ClusterUse(nodes=3), 0, "2 of 3", [{"CPU": 8}, {"CPU": 8, "GPU": 1}, {"CPU": 8}]),
        (
            [HEAD, CPU, GPU], ClusterUse(nodes=4), SEVEN_BILLION, "2 of 4",
            [{"CPU": 8}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}],
        ),
        (
            [HEAD], ClusterUse(), SEVEN_BILLION,
            "^waiting for a worker node with a GPU: 1 node in the cluster, none with a CPU .* are 15.2 GB; --resource",
            [{"CPU": 1, "GPU": 1}],
        ),
        ([HEAD], ClusterUse(nodes=2), SEVEN_BILLION, "none with a CPU", [{"CPU": 1, "GPU": 1}] * 2),
        (
            [HEAD, CPU], ClusterUse(), SEVEN_BILLION,
            "waiting for a node with a GPU: 2 nodes in the cluster, none with a GPU, .* weights are 15.2 GB; "
            "--resource encode_gpus=0 --resource generate_gpus=0 computes on CPUs",
            [{"CPU": 8}, {"CPU": 1, "GPU": 1}],
        ),
    ],
)  # fmt: skip
def test_what_is_lacking_is_said(
    nodes: list[Node], use: ClusterUse, weights_bytes: int, note: str, bundles: list[dict[str, float]]
) -> None:
    lack = lacking(nodes, use, everywhere=len(nodes), weights_bytes=weights_bytes)
    assert lack is not None
    assert re.search(note, lack.note)
    assert lack.bundles == bundles


def brought(bundles: list[dict[str, float]], there: list[Node], kinds: list[Node]) -> list[Node]:
    """The nodes that an autoscaler starts: bundles go where they fit, and else on the smallest kind that has room."""
    free, started = list(there), []
    for bundle in bundles:
        cpus, gpus = bundle["CPU"], bundle.get("GPU", 0.0)
        place = next((at for at, node in enumerate(free) if node.cpus >= cpus and node.gpus >= gpus), None)
        if place is None:
            kind = min(
                (kind for kind in kinds if kind.cpus >= cpus and kind.gpus >= gpus),
                key=lambda kind: (kind.gpus, kind.cpus),
            )
            started.append(kind)
            free.append(kind)
            place = len(free) - 1
        free[place] = Node(free[place].cpus - cpus, free[place].gpus - gpus)
    return started


@pytest.mark.parametrize("weights_bytes", [SMALL, SEVEN_BILLION])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
@pytest.mark.parametrize("start", [[HEAD], [HEAD, CPU], [CPU, CPU], [HEAD, Node(2)]])
@pytest.mark.parametrize("kinds", [[Node(16, 4)], [Node(4), Node(64, 8)], [CPU, GPU, Node(96)]])
def test_an_autoscaler_that_does_what_it_is_asked_brings_the_nodes_and_no_more(
    kinds: list[Node], start: list[Node], count: int, weights_bytes: int
) -> None:
    nodes, use = list(start), ClusterUse(nodes=count)
    workers = [node for node in start if node.cpus]
    for _ in range(4):
        lack = lacking(nodes, use, everywhere=len(nodes), weights_bytes=weights_bytes)
        if lack is None:
            break
        nodes += brought(lack.bundles, nodes, kinds)
    assert lack is None
    heavy = weights_bytes == SEVEN_BILLION
    assert len(nodes) - len(start) == max(not workers or heavy, count - len(workers))
    assert not heavy or any(node.gpus for node in nodes)


@pytest.mark.parametrize(
    ("nodes", "use", "weights_bytes"),
    [
        ([CPU], ClusterUse(), 0),
        ([HEAD, CPU], ClusterUse(), SMALL),
        ([HEAD, CPU, GPU], ClusterUse(nodes=2), SEVEN_BILLION),
        # A single machine: nothing else will come, and patience is the user's.
        ([CPU], ClusterUse(), SEVEN_BILLION),
    ],
)
def test_a_run_begins_with_what_it_needs(nodes: list[Node], use: ClusterUse, weights_bytes: int) -> None:
    assert lacking(nodes, use, everywhere=len(nodes), weights_bytes=weights_bytes) is None


def test_it_waits_asks_the_autoscaler_and_goes_on_with_nodes_of_its_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def node(zone: str, **resources: float) -> dict[str, Any]:
        return {"Alive": True, "Resources": resources, "Labels": {"zone": zone}}

    alive = [node("a"), node("b", CPU=64.0, GPU=8.0), node("a", CPU=4.0)]
    asked: list[dict[str, Any]] = []
    notes: list[str] = []
    monkeypatch.setattr(placement.ray, "nodes", lambda: alive)
    monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", lambda **what: asked.append(what))
    monkeypatch.setattr(placement, "SAY_AFTER_S", 0.0)
    monkeypatch.setattr(placement, "_LOOK_EVERY_S", 0.0)

    def tell(progress: Progress) -> None:
        notes.append(progress.note)
        alive.append(node("a", CPU=4.0, GPU=1.0))

    use = ClusterUse(nodes=3, labels=(("zone", "a"),))
    assert wait_for_nodes(tell, use, weights_bytes=SEVEN_BILLION) == [
        Node(0),
        Node(4),
        Node(4, 1),
        Node(4, 1),
    ]
    assert len(notes) == 2
    assert all("with a CPU for tasks with zone=a" in note for note in notes)
    there, card = {"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}
    zones = [{"zone": "a"}] * 3
    assert asked == [
        {
            "bundles": [there, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}],
            "bundle_label_selectors": zones,
        },
        # The first with a GPU shows how large one is.
        {"bundles": [there, card, card], "bundle_label_selectors": zones},
        {"bundles": [], "bundle_label_selectors": None},
    ]
    assert wait_for_nodes(tell, use) == placement.alive_nodes(use.labels)
    assert (len(asked), len(notes)) == (3, 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"share": 0.0}, "--share 0: above 0"),
        ({"share": 1.5}, "--share 1.5: above 0 and at most 1"),
        ({"share": float("nan")}, "--share nan"),
        ({"nodes": -1}, "--nodes -1: 0 or more"),
        ({"labels": (("zone", ""),)}, "--label zone=: write NAME=VALUE"),
    ],
)
def test_what_cannot_be_had_of_a_cluster_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ClusterUse(**values)
