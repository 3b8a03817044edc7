"""Random starts, restarts and losses of nodes on a shared cluster of logical GPUs: does a GPU ever stay empty for ever?

    python benchmarks/placement.py [--rounds 200] [--seed 0] [--within-s 60]

A Ray cluster on this machine: a head without CPUs, and up to three nodes with a few CPUs and one to three logical GPUs
each. Each round does one thing at random: a run starts, on all of the cluster or half of it, or ends; a process with
models is killed; a node is killed, or one joins. At most two runs share the cluster. They start and look after their
processes by the code of a run, `malmm.pipeline.indexing.model_hosts`; a model writes down where it was made, and does
nothing.

Then it waits until all is at rest: each run has all processes that it wants, each with both models, or no GPU is empty;
and no GPU has two processes. If a GPU stays empty for long, or processes do not load at all, the exit code is 1. Looks
for new nodes come more often than in a run, and Ray misses a killed node sooner.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from malmm.operators.model_host import ModelStep
from malmm.pipeline.archive.process_identity import is_alive, started
from malmm.pipeline.cluster.placement import alive_nodes
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.indexing import model_hosts
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.schema.cluster_use import ClusterUse

STAGES = ("encode", "generate")
MOST_NODES, MOST_RUNS = 3, 2
STORE_BYTES = 80_000_000
NODES_EVERY_S, PAUSE_S = 0.5, 0.2
# So many times longer than a GPU may stay empty, a process may load.
LOADING = 10
SYSTEM = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 1000,
    # On a busy machine the head itself may not answer for seconds, and all its processes would be taken for lost.
    "health_check_failure_threshold": 20,
    "num_workers_soft_limit": 4,
}
# A separate program, as starting a node forks, which a process that has loaded Lance should not. It obeys lines,
# ``join CPUS GPUS`` and ``lose NUMBER``, and answers each; it ends with its input.
CLUSTER = """
import json, os, sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what Ray prints
from ray.cluster_utils import Cluster

store = int(sys.argv[1])
head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
cluster = Cluster(initialize_head=True, head_node_args=head | {"_system_config": json.loads(sys.argv[2])})
nodes = []
print(cluster.address, file=answers, flush=True)
for line in sys.stdin:
    name, *numbers = line.split()
    if name == "join":
        cpus, gpus = map(int, numbers)
        nodes.append(cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=store))
    else:
        cluster.remove_node(nodes.pop(int(numbers[0])), allow_graceful=False)
    print("done", file=answers, flush=True)
cluster.shutdown()
"""


class Model:
    """In the place of a model: writes down where it was made."""

    def __init__(self, *, run: str, stage: str, folder: str) -> None:
        [gpu] = ray.get_gpu_ids()
        node = ray.get_runtime_context().get_node_id()
        process = started(os.getpid()).replace("/", "-")
        Path(folder, f"{run} {stage} {node} {gpu} {process}").touch()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Do nothing."""
        return rows


@dataclass(frozen=True)
class Place:
    """A process that has loaded a model: of which run, and on which GPU."""

    run: str
    node: str
    gpu: str
    process: str

    @property
    def lives(self) -> bool:
        """Whether the process is there. Its number alone does not tell: threads and later processes get it, too."""
        return bool(is_alive(self.process.replace("-", "/")))


@dataclass
class Tenant:
    """A run on the cluster."""

    name: str
    plan: ClusterPlan
    hosts: ModelHosts
    looks: Iterator[Any]
    most: int = 0

    def look(self) -> None:
        """Do what a run does twice a second, and note how many processes it wants."""
        next(self.looks)
        self.most = max(self.most, self.plan.resources(alive_nodes()).encode_workers)


@dataclass
class Shared:
    """A cluster, its nodes and its runs, and what happens to them."""

    cluster: subprocess.Popen[str]
    folder: Path
    chance: random.Random
    within_s: float
    nodes: int = 0
    runs: list[Tenant] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def round(self) -> str:
        """Do something, wait for rest, and return what was done."""
        can = [name for name, possible in self._possible() if possible]
        name = self.chance.choice(can)
        getattr(self, f"_{name}")()
        self.done[name] += 1
        self._rest(name)
        return name

    def _possible(self) -> list[tuple[str, bool]]:
        # Without a run, nothing could go wrong.
        some = bool(self.runs)
        return [
            ("start", len(self.runs) < MOST_RUNS),
            ("end", some),
            ("kill", some and bool(self.places())),
            ("lose", some and self.nodes > 1),
            ("join", some and self.nodes < MOST_NODES),
        ]

    def places(self) -> list[Place]:
        """The processes that have loaded both models of a run, and live."""
        found: dict[Place, set[str]] = {}
        for path in self.folder.iterdir():
            run, stage, node, gpu, process = path.name.split()
            place = Place(run, node, gpu, process)
            if place.lives:
                found.setdefault(place, set()).add(stage)
        return [place for place, stages in found.items() if stages == set(STAGES)]

    def _start(self) -> None:
        name = f"run-{next(self.numbers)}"
        plan = ClusterPlan(use=ClusterUse(share=self.chance.choice([0.5, 1.0])))
        hosts = ModelHosts(plan.resources(alive_nodes()), plan)
        steps = [
            ModelStep(
                stage, pa.schema([]), Model, {"run": name, "stage": stage, "folder": str(self.folder)}, 1
            )
            for stage in STAGES
        ]
        hosts.route(steps, expected=1000)
        self.runs.append(Tenant(name, plan, hosts, hosts.watched(itertools.repeat(None))))

    def _end(self) -> None:
        run = self.runs.pop(self.chance.randrange(len(self.runs)))
        run.hosts.__exit__()

    def _kill(self) -> None:
        place = self.chance.choice(sorted(self.places(), key=lambda place: place.process))
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(place.process.partition("-")[0]), signal.SIGKILL)
        while place.lives:
            time.sleep(PAUSE_S)

    def _lose(self) -> None:
        self._have("lose", self.chance.randrange(self.nodes))
        self.nodes -= 1

    def _join(self) -> None:
        self._have("join", *self.chance.choice([(1, 1), (2, 1), (1, 2), (4, 2), (2, 3)]))
        self.nodes += 1

    def _have(self, *what: object) -> None:
        assert self.cluster.stdin is not None
        assert self.cluster.stdout is not None
        self.cluster.stdin.write(f"{' '.join(map(str, what))}\n")
        self.cluster.stdin.flush()
        if self.cluster.stdout.readline().strip() != "done":
            raise SystemExit(f"the cluster's program ended at {what}: the machine may be too busy")

    def _rest(self, after: str) -> None:
        began = stranded_since = time.monotonic()
        while True:
            for run in self.runs:
                run.look()
            unrest = self._unrest()
            now = time.monotonic()
            if unrest is None:
                self.waits_s.append(now - began)
                return
            # What a process reserves is taken at once; that it then loads may take long on a busy machine.
            if ray.available_resources().get("GPU", 0.0) < 1:
                stranded_since = now
            if now - stranded_since >= self.within_s or now - began >= LOADING * self.within_s:
                self.faults.append(f"after {after}: {unrest}")
                return
            time.sleep(PAUSE_S)

    def _unrest(self) -> str | None:
        """What is not as it should be; None if all is."""
        alive = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]}
        if sum(1 for gpus in alive.values() if gpus) != self.nodes:
            return "the cluster has not missed its node yet"
        names = {run.name for run in self.runs}
        places = [place for place in self.places() if place.node in alive]
        if any(place.run not in names for place in places):
            return "processes of a run that ended are still there"
        if len({(place.node, place.gpu) for place in places}) < len(places):
            return f"two processes share a GPU: {places}"
        has = Counter(place.run for place in places)
        lacking = {
            run.name: f"{has[run.name]} of {run.most}" for run in self.runs if has[run.name] < run.most
        }
        empty = int(sum(alive.values())) - len(places)
        if lacking and empty:
            return f"{empty} GPUs are empty, and runs have {lacking} processes"
        return None


@contextmanager
def shared_cluster(chance: random.Random, *, within_s: float) -> Iterator[Shared]:
    """A cluster with one node."""
    nodes_every_s = model_hosts.NODES_EVERY_S
    # Ray's paths must be short, and the cluster's address must be where no other run looks for it.
    with (
        tempfile.TemporaryDirectory(prefix="mp-", dir="/tmp", ignore_cleanup_errors=True) as home,
        tempfile.TemporaryDirectory(prefix="malmm-placement-") as folder,
    ):
        apart = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {
            "RAY_TMPDIR": home
        }
        cluster = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, str(STORE_BYTES), json.dumps(SYSTEM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=apart,
            start_new_session=True,
        )
        try:
            assert cluster.stdout is not None
            address = cluster.stdout.readline().strip()
            if not address:
                raise SystemExit("the cluster did not start: the machine may be too busy")
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            model_hosts.NODES_EVERY_S = NODES_EVERY_S
            shared = Shared(cluster, Path(folder), chance, within_s)
            shared._join()
            yield shared
            for run in shared.runs:
                run.hosts.__exit__()
        finally:
            model_hosts.NODES_EVERY_S = nodes_every_s
            ray.shutdown()
            cluster.communicate()


def main() -> None:
    """Do so many rounds and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--within-s", type=float, default=60.0, help="that a GPU may stay empty (%(default)s)"
    )
    options = parser.parse_args()
    with (
        # Ray prints the last words of nodes that are killed.
        contextlib.redirect_stdout(sys.stderr),
        shared_cluster(random.Random(options.seed), within_s=options.within_s) as shared,
    ):
        # Interrupted, it says what was found so far.
        with contextlib.suppress(KeyboardInterrupt):
            for number in range(options.rounds):
                before = len(shared.faults)
                name = shared.round()
                said = shared.faults[-1] if len(shared.faults) > before else f"{shared.waits_s[-1]:5.1f} s"
                print(f"{number:4d} {name:6s} {said}", file=sys.stderr)
        done, waits_s = shared.done, sorted(shared.waits_s)
        processes = len({path.name.split()[-1] for path in shared.folder.iterdir()})
    print(
        "| rounds | runs started | ended | processes killed | nodes lost | joined | processes started "
        "| longest until rest, s | stranded |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    counts = " | ".join(str(done[name]) for name in ("start", "end", "kill", "lose", "join"))
    longest_s = waits_s[-1] if waits_s else 0.0
    print(f"| {done.total()} | {counts} | {processes} | {longest_s:.1f} | {len(shared.faults)} |")
    for fault in shared.faults:
        print(fault)
    sys.exit(bool(shared.faults))


if __name__ == "__main__":
    main()
