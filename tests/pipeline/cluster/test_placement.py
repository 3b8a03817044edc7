"""A run on a cluster without room waits, says for what, and goes on: a head without CPUs, then one that is full, at the
begin of a run and in its middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from malmm.pipeline.cluster.placement import room_note
from malmm.pipeline.cluster.resources import Node

ENCODE, DECODE = ("encode", 0.5, 0.6), ("decode", 1.0, 0.0)


@pytest.mark.parametrize(
    ("asked", "nodes", "available", "said"),
    [
        ([DECODE], [Node(2)], {}, ["decode (1 CPU)", "1 node with 2 CPUs, of which 0 CPUs are free", "other jobs"]),
        (
            [ENCODE],
            [Node(8, 1), Node(8, 1)],
            {"CPU": 16.0, "GPU": 0.25},
            ["encode (0.5 CPUs and 0.6 GPUs)", "2 nodes with 16 CPUs and 2 GPUs", "16 CPUs and 0.25 GPUs are free"],
        ),
        ([DECODE, ENCODE], [Node(4, 4)], {"CPU": 2.5, "GPU": 3.4}, ["starting a process for each of decode (1 CPU)"]),
        ([DECODE, ENCODE], [Node(4, 4)], {"CPU": 2.5, "GPU": 3.3}, ["waiting for room for decode", "other jobs"]),
        ([DECODE, ENCODE], [Node(4, 4)], {"CPU": 2.4, "GPU": 3.4}, ["waiting for room for decode", "other jobs"]),
        # Of nodes with a label alone, where the whole cluster has more free: nothing tells how much is free on them.
        ([DECODE], [Node(2)], {"CPU": 8.0}, ["waiting for room for decode", "other jobs"]),
        ([ENCODE], [Node(8)], {"CPU": 8.0}, ["no node is large enough for encode", "--resource encode_gpus=N"]),
        ([DECODE], [Node(0.5), Node(0.5)], {"CPU": 1.0}, ["no node is large enough", "--resource decode_cpus=N"]),
    ],
)  # fmt: skip
def test_the_note_says_what_there_is_and_what_would_do(
    asked: list[tuple[str, float, float]], nodes: list[Node], available: dict[str, float], said: list[str]
) -> None:
    note = room_note(asked, nodes, available)
    assert [part for part in said if part not in note] == []


# In a process of its own: this cluster's nodes are started from the main thread, and Ray keeps one cluster a process.
SCRIPT = """
import json, os
import ray
from ray.autoscaler._private.constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get
from malmm.pipeline.cluster import placement, starvation
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.schema.progress import Progress
from support.lean_ray import lean
from support.waiting import until

with lean():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
os.environ["RAY_ADDRESS"] = cluster.address
notes, asked = [], []
placement.SAY_AFTER_S = 0.0

def asked_of_the_autoscaler() -> None:
    # Where Ray keeps it for whatever autoscaler a cluster has.
    asked.append(json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)))

def add_a_node(progress: Progress) -> None:
    if progress.note and not notes:
        notes.append(progress.note)
        asked_of_the_autoscaler()
        with lean():
            cluster.add_node(num_cpus=1)

with connected(tell=add_a_node) as resources:
    decoders = resources.decode_workers
    asked_of_the_autoscaler()

    @ray.remote(num_cpus=1)
    class Holder:
        def held(self) -> bool:
            return True

    holder = Holder.remote()
    ray.get(holder.held.remote())

    def end_the_holder(progress: Progress) -> None:
        # What is free is told by the nodes now and then.
        if "0 CPUs are free" in progress.note and len(notes) == 1:
            notes.append(progress.note)
            ray.kill(holder)

    with connected(tell=end_the_holder):
        pass

    # In the middle of a run: its worker waits behind another job's.
    starvation.SAY_AFTER_S = starvation._ASK_EVERY_S = 0.0
    watch = starvation.RoomWatch(resources)
    holder = Holder.remote()
    ray.get(holder.held.remote())
    worker = ray.remote(num_cpus=resources.decode_cpus)(lambda: None).remote()
    notes.append(until(lambda: watch.note(0)))
    ray.kill(holder)
    ray.get(worker)
    until(lambda: not watch.note(0))

    # Beside a run, as for an index that is built on workers.
    holder = Holder.remote()
    ray.get(holder.held.remote())

    def keep(note: str) -> None:
        notes.append(note)
        ray.kill(holder)

    starvation.wait_for_worker(("indexing of vectors", 1.0, 0.0), keep)
print(json.dumps([asked, decoders, *notes]))
"""


def test_it_goes_on_once_there_is_a_node_and_once_another_job_has_ended() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # The head writes its address down: in a folder of its own, where no other run looks for it.
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=environment | {"RAY_TMPDIR": folder, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    asked, decoders, first, second, third, fourth = json.loads(done.stdout.splitlines()[-1])
    assert decoders == 1
    assert asked == [[{"CPU": 1.0}], []]
    assert first.startswith("waiting for a worker node: 1 node in the cluster, none with a CPU for tasks")
    assert second.startswith("waiting for room for decode")
    assert "2 nodes with 1 CPU, of which 0 CPUs are free; other jobs hold the rest" in second
    assert third.startswith("nothing gets on, and no node has room for decode (")
    assert "; it goes on when another job ends" in third
    assert fourth.startswith("nothing gets on, and no node has room for indexing of vectors (1 CPU)")
