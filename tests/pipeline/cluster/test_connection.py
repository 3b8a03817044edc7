from __future__ import annotations

import itertools
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayError

from malmm.pipeline.cluster import connection as cluster
from malmm.pipeline.cluster import placement
from malmm.pipeline.cluster.appetite import Appetite
from malmm.pipeline.cluster.discovery import RecordedHead
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.schema.errors import ConfigError, WorkerError
from malmm.pipeline.schema.progress import Progress


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


@pytest.mark.parametrize(
    ("environment", "head", "asked"),
    [
        ({}, None, "local"),
        ({}, RecordedHead("127.0.0.1:6379", Path("ray_current_cluster"), alive=False), "local"),
        # Ray asks for the machine's token at a cluster that it finds by itself, and at no address that it is given.
        ({}, RecordedHead("127.0.0.1:6379", Path("ray_current_cluster"), alive=True), None),
        ({"RAY_ADDRESS": "ray"}, None, "ray"),
    ],
)
def test_ray_finds_the_machines_cluster_by_itself(
    environment: dict[str, str],
    head: RecordedHead | None,
    asked: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses: list[str | None] = []
    reason = f"File ray/worker.py, {'in init ' * 100}Set RAY_AUTH_MODE=token."

    def init(*, address: str | None, **_: object) -> None:
        addresses.append(address)
        raise RuntimeError(reason)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster, "recorded_head", lambda: head)
    with (
        pytest.raises(WorkerError, match=r": … (in|init) (.*)Set RAY_AUTH_MODE=token\.$") as raised,
        cluster.connected(),
    ):
        pass
    assert addresses == [asked]
    assert ("127.0.0.1:6379" in str(raised.value)) == (asked is None)


def test_what_a_user_wants_of_the_cluster_goes_before_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 1e9}}
    lost = {"Alive": False, "Resources": {"CPU": 8.0}}
    monkeypatch.setattr(placement.ray, "nodes", lambda: [alive, lost])
    monkeypatch.setattr(cluster, "wait_for_room", lambda *_: None)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    with cluster.connected(ClusterPlan((("decode_workers", 5.0), ("encode_gpus", 0.25)))) as chosen:
        pass
    assert chosen == replace(choose_resources([Node(8, 2)]), decode_workers=5, encode_gpus=0.25)


@pytest.fixture
def asked_for_room(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A cluster of a head and one node with two cards, which starts nothing; and what it was asked to have room for."""
    asked: list[object] = []
    head = {"Alive": True, "Resources": {"memory": 1e9}}
    cards = {"CPU": 4.0, "GPU": 2.0, "memory": 1e11, "accelerator_type:T4": 1.0}
    monkeypatch.setattr(
        placement.ray, "nodes", lambda: [head, {"Alive": True, "NodeID": "n", "Resources": cards}]
    )
    monkeypatch.setattr(cluster, "wait_for_room", lambda *given: asked.append(given))
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    return asked


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            # Two GPUs at once for each of two models, of which there are two in all.
            ClusterPlan((("encode_gpus", 2.0), ("generate_gpus", 1.0))),
            r"the plan does not fit: .*encode .* and 2 GPUs, generate .* and 1 GPU.*\(0 CPUs and 0 GPUs, 4 CPUs and 2 ",
        ),
        (ClusterPlan(weights_bytes=26_000_000_000), "26.0 GB of a GPU's memory, and T4 has 16 GB"),
        (ClusterPlan((("generate_gpus", 0.7),)), "encode_gpus 0.6 and generate_gpus 0.7"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_starts(
    plan: ClusterPlan, said: str, asked_for_room: list[object]
) -> None:
    with pytest.raises(ConfigError, match=said), cluster.connected(plan):
        pass
    assert asked_for_room == []


def test_cpus_that_cannot_feed_the_gpus_are_told_of_at_the_start(asked_for_room: list[object]) -> None:
    told: list[Progress] = []
    light = ClusterPlan(appetite=Appetite(lambda: 1_000_000_000, fps=1.0))
    with cluster.connected(light, tell=told.append):
        pass
    assert [progress.stage for progress in told] == ["starting"]
    assert told[0].note.startswith("2 GPUs will wait for decoding: they eat what some ")
    assert len(asked_for_room) == 1


@pytest.mark.parametrize(
    ("address", "head", "said"),
    [
        ("auto", None, "cannot connect to the Ray cluster at RAY_ADDRESS=auto: no"),
        (
            "",
            RecordedHead("10.0.0.1:6379", Path("file"), alive=True),
            r"cannot connect to the Ray cluster at 10.0.0.1:6379 \(RAY_ADDRESS=local starts one for this run alone\)",
        ),
        ("", RecordedHead("10.0.0.1:6379", Path("file"), alive=False), "cannot start a Ray cluster: no"),
    ],
)
def test_an_error_names_the_cluster_that_was_tried(
    address: str, head: RecordedHead | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("no")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(cluster, "recorded_head", lambda: head)
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(WorkerError, match=f"^{said}"), cluster.connected():
        pass


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_an_address_where_nothing_listens_is_told_at_once(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    with socket.socket() as unheard:
        # Bound, so that no other program listens there.
        unheard.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{unheard.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with (
            pytest.raises(
                WorkerError, match=rf"^there is no Ray cluster at RAY_ADDRESS={address}: .*refused"
            ),
            cluster.connected(),
        ):
            pass


def test_a_worker_that_cannot_be_started_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others that were asked for do not stay in the queue."""
    given_up: list[object] = []

    def get(reference: object) -> None:
        raise RayError("the environment\ncannot be set up")

    numbers = itertools.count()
    remote = SimpleNamespace(remote=lambda: next(numbers))
    monkeypatch.setattr(placement.ray, "remote", lambda **_: lambda function: remote)
    monkeypatch.setattr(placement.ray, "wait", lambda waiting, **_: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(placement.ray, "get", get)
    monkeypatch.setattr(placement.ray, "cancel", given_up.append)
    with pytest.raises(
        WorkerError, match=r"^the cluster cannot start a worker: the environment cannot be set up$"
    ):
        placement.wait_for_room(choose_resources([Node(8, 1)]), lambda progress: None)
    assert given_up == [0, 1]
