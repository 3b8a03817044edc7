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
    ("nodes", "use", "weights_bytes", "note", "bundle"),
    [
        ([HEAD], ClusterUse(), 0, "waiting for a worker node: 1 node in the cluster, none with a CPU", {"CPU": 1}),
        ([], ClusterUse(labels=(("zone", "a"),)), 0, "0 nodes with zone=a in the cluster, none with", {"CPU": 1}),
        ([HEAD, CPU], ClusterUse(nodes=4), 0, "1 of 4 are there.*smaller --nodes", {"CPU": 1}),
        ([HEAD], ClusterUse(), SEVEN_BILLION, "none with a CPU", {"CPU": 1}),
        (
            [HEAD, CPU], ClusterUse(), SEVEN_BILLION,
            "waiting for a node with a GPU: 2 nodes in the cluster, none with a GPU, .* weights are 15.2 GB; "
            "--resource encode_gpus=0 --resource generate_gpus=0 computes on CPUs",
            {"CPU": 1, "GPU": 1},
        ),
    ],
)  # fmt: skip
def test_what_is_lacking_is_said(
    nodes: list[Node], use: ClusterUse, weights_bytes: int, note: str, bundle: dict[str, float]
) -> None:
    lack = lacking(nodes, use, everywhere=len(nodes), weights_bytes=weights_bytes)
    assert lack is not None
    assert re.search(note, lack.note)
    assert lack.bundle == bundle


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
    wanted = {"CPU": 1.0, "GPU": 1.0}
    assert asked == [
        {"bundles": [wanted] * 3, "bundle_label_selectors": [{"zone": "a"}] * 3},
        {"bundles": [], "bundle_label_selectors": None},
    ]
    assert wait_for_nodes(tell, use) == placement.alive_nodes(use.labels)
    assert len(asked) == len(notes) == 2


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
