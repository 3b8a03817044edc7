from __future__ import annotations

from dataclasses import replace

import pytest

from malmm.pipeline.cluster import connection as cluster
from malmm.pipeline.cluster import placement
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.schema.errors import WorkerError


@pytest.mark.parametrize("kind", [Exception, RuntimeError, ConnectionError, TimeoutError])
def test_a_cluster_that_does_not_start_is_one_sentence(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise kind("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    with (
        pytest.raises(WorkerError, match=r"^cannot start a Ray cluster: .* timed out"),
        cluster.connected(),
    ):
        pass


def test_what_a_user_wants_of_the_cluster_goes_before_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}}
    lost = {"Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(placement.ray, "nodes", lambda: [alive, lost])
    monkeypatch.setattr(cluster, "wait_for_room", lambda *_: None)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    with cluster.connected(ClusterPlan((("decode_workers", 5.0), ("encode_gpus", 0.25)))) as chosen:
        pass
    assert chosen == replace(choose_resources([Node(8, 2)]), decode_workers=5, encode_gpus=0.25)
