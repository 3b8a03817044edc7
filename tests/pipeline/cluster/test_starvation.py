"""A run says that it has no room only when nothing is finished and the same request stays open."""

from __future__ import annotations

import itertools
import queue
import threading

import pytest
import ray
from support.waiting import until

from malmm.pipeline.cluster import starvation
from malmm.pipeline.cluster.resources import Node, Resources
from malmm.pipeline.cluster.starvation import SAY_AFTER_S, RoomWatch, Shape, room_told

RESOURCES = Resources(1, 1.0, 1, 0.5, 0.0, 1, 0.25, 0.0)
DECODE, WRITE, OTHERS = (1.0, 0.0), (0.05, 0.0), (8.0, 1.0)


class Cluster:
    """A cluster that answers at once, and a clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.open: list[Shape] = []
        self.asked = 0
        self.free = 0.5

    def ask(self) -> None:
        self.asked += 1

    def answer(self) -> frozenset[Shape] | None:
        return frozenset(self.open)

    def room(self) -> tuple[list[Node], dict[str, float]]:
        return [Node(2)], {"CPU": self.free}

    def notes(self, watch: RoomWatch, done: int, seconds: int) -> list[str]:
        """What it says at each of the next seconds."""
        found = []
        for _ in range(seconds):
            self.now_s += 1
            found.append(watch.note(done))
        return found


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def watch(cluster: Cluster) -> RoomWatch:
    return RoomWatch(RESOURCES, [("write", 0.05, 0.0)], requests=cluster, now_s=lambda: cluster.now_s)


def test_a_run_that_gets_on_is_never_asked_about(cluster: Cluster, watch: RoomWatch) -> None:
    cluster.open = [DECODE]
    for done in range(5):
        assert not any(cluster.notes(watch, done, int(SAY_AFTER_S) - 1))
    assert cluster.asked == 0


@pytest.mark.parametrize("requests", [[], [OTHERS]])
def test_a_long_segment_is_no_lack_of_room(cluster: Cluster, watch: RoomWatch, requests: list[Shape]) -> None:
    cluster.open = requests
    assert not any(cluster.notes(watch, 3, 100))
    assert cluster.asked > 10


@pytest.mark.parametrize(("request_", "stage"), [(DECODE, "decode (1 CPU)"), (WRITE, "write (0.05 CPUs)")])
def test_a_request_that_stays_open_is_told_until_something_is_finished(
    cluster: Cluster, watch: RoomWatch, request_: Shape, stage: str
) -> None:
    cluster.open = [OTHERS, request_]
    said = cluster.notes(watch, 3, int(SAY_AFTER_S) + 10)
    assert not any(said[: int(SAY_AFTER_S)])
    assert said[-1] == (
        f"nothing gets on, and no node has room for {stage}: 1 node with 2 CPUs, of which 0.5 CPUs are free; "
        "it goes on when another job ends (`ray list actors` shows them), or add a node"
    )
    cluster.open = []
    assert not cluster.notes(watch, 3, 10)[-1]
    cluster.open = [request_]
    assert cluster.notes(watch, 3, 10)[-1]
    assert cluster.notes(watch, 4, 1) == [""]


def test_a_request_that_is_open_for_a_moment_is_not_told(cluster: Cluster, watch: RoomWatch) -> None:
    cluster.notes(watch, 3, int(SAY_AFTER_S))
    for now_open in itertools.islice(itertools.cycle(([DECODE], [WRITE])), 30):
        cluster.open, before = now_open, cluster.asked
        while cluster.asked == before:
            assert cluster.notes(watch, 3, 1) == [""]
        assert cluster.notes(watch, 3, 1) == [""]


def test_what_a_block_waits_for_is_told_while_it_waits(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SAY_AFTER_S", "_ASK_EVERY_S", "_LOOK_EVERY_S"):
        monkeypatch.setattr(starvation, name, 0.001)
    told: queue.SimpleQueue[str] = queue.SimpleQueue()
    cluster.open = [OTHERS]
    with room_told([("the page", 1.0, 0.0)], told.put, cluster):
        until(lambda: cluster.asked > 5)
        assert told.empty()
        cluster.open = [OTHERS, (1.0, 0.0)]
        assert told.get().startswith(
            "nothing gets on, and no node has room for the page (1 CPU): 1 node with 2 CPUs"
        )
        asked = cluster.asked
        until(lambda: cluster.asked > asked + 5)
        assert told.empty(), "the same sentence once"
        cluster.free = 0.0
        assert "of which 0 CPUs are free" in told.get()
    assert not [thread for thread in threading.enumerate() if thread.name == "malmm-room"]


def test_without_a_cluster_nothing_is_asked() -> None:
    clock = itertools.count(0.0, 5.0)
    watch = RoomWatch(RESOURCES, now_s=lambda: next(clock))
    assert [watch.note(0) for _ in range(9)] == [""] * 9
    assert not ray.is_initialized()
