"""A run of 100,000 segments on 16 encoders that sleep, while a node with four of them is killed and another one joins.

    python benchmarks/simulation.py [--segments 100000] [--nodes 4] [--gpus 4] [--together 96] [--batch-s 12]

Driver, stages, processes with models, and commits to a real archive are those of a run, on Ray nodes on this machine
with logical GPUs. What decoders, models and writers do is invented (`benchmarks/ray_driver.py`): a decoder makes frames
of 8x8 pixels, and an encoder sleeps. Time is stretched by the size of a batch: so many segments go together that two
cores can do all that is not asleep. At a third of the segments a node is killed, at half of them one joins.

An encoder's idle share is the part of the time from its first batch to its last, or to the death of its node, that it
did not sleep. CPU time is that of the driver's process, whose work in Ray Data is by the block; the object store is
that of all nodes.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nodes
import numpy as np
import pyarrow as pa
import ray_driver
from ray import cloudpickle

from malmm.model.checkpoints.resolve import open_models
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.indexing import driver as driving
from malmm.pipeline.indexing import graph as stages
from malmm.pipeline.indexing.driver import Run
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.rows import DECODED, ENCODED, carried, rows_table, with_arrays

FRAMES, SIDE, REAL_SIDE = 100, 8, 224
STORE_BYTES = 300_000_000
A100_FRAMES_S = 229
KILL_AT, JOIN_AT = 1 / 3, 1 / 2
# A separate program, which never loads Lance. It obeys lines: ``kill`` and ``join`` a node; it ends with its input.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

count, gpus, store = map(int, sys.argv[1:])
head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
cluster = Cluster(initialize_head=True, head_node_args=head)

def join():
    return cluster.add_node(num_cpus=4, num_gpus=gpus, object_store_memory=store)

others = [join() for _ in range(count)]
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(others.pop(), allow_graceful=False)
    else:
        others.append(join())
cluster.shutdown()
"""


def decode_segments(rows: pa.Table, **_: Any) -> pa.Table:
    """In the place of the operator of this name, by which a run lets the stage grow: small frames."""
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    return rows_table([with_arrays(row.columns(), frames=frames) for row in carried(rows)], DECODED)


class SleepingEncoder:
    """In the place of ``EncodeSegments``: sleeps, and writes to ``log`` when."""

    segment_s = 0.0
    log = ""

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, rows: pa.Table) -> pa.Table:
        """``DECODED`` to ``ENCODED``."""
        began = time.time()
        time.sleep(self.segment_s * rows.num_rows)
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()} {began} {time.time()}\n")
        return rows_table([row.columns() for row in carried(rows)], ENCODED)


def main() -> None:
    """Run it and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--gpus", type=int, default=4, help="logical GPUs of a node (%(default)s)")
    parser.add_argument("--together", type=int, default=96, help="segments of a block (%(default)s)")
    parser.add_argument("--batch-s", type=float, default=12.0, help="that encoding them sleeps (%(default)s)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*lancedb fork support")
    warnings.filterwarnings("ignore", message=".*lance is not fork-safe")
    # Workers get functions and classes themselves: they could not import these files.
    cloudpickle.register_pickle_by_value(ray_driver)
    stages.probe_files, stages.write_segments = ray_driver.probe, ray_driver.write
    stages.decode_segments = decode_segments  # type: ignore[assignment]
    stages.ENCODER, stages.GENERATOR = SleepingEncoder, ray_driver.Generate
    driving.segments_a_block = lambda *_: options.together
    SleepingEncoder.segment_s = options.batch_s / options.together
    with tempfile.TemporaryDirectory(prefix="malmm-simulation-") as folder:
        SleepingEncoder.log = str(Path(folder) / "log.txt")
        Path(SleepingEncoder.log).touch()
        size = [str(each) for each in (options.nodes, options.gpus, STORE_BYTES)]
        cluster = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, *size], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert cluster.stdout is not None
            os.environ["RAY_ADDRESS"] = cluster.stdout.readline().strip()
            if not os.environ["RAY_ADDRESS"]:
                raise SystemExit("the cluster did not start: the machine may be too busy")
            measure(options, Path(folder), cluster)
        finally:
            cluster.communicate()


def measure(options: argparse.Namespace, folder: Path, cluster: subprocess.Popen[str]) -> None:
    """Index the segments, change the cluster on the way, and print."""
    place = str(folder / "archive")
    recipe = Recipe("debug", "none", "none", "none", 1.0, ray_driver.SEGMENT_S, 20, "token", REAL_SIDE)
    archive = Archive.create_or_open(place, recipe, 8)
    config = IndexConfig((str(folder),), place, model="debug", batch_segments=options.together)
    run = Run(config, recipe, open_models("debug"), 8, IndexReport(place, "debug"), lambda progress: None)
    count = -(-options.segments // ray_driver.SEGMENTS_A_VIDEO)
    listed: Any = SimpleNamespace(found=[ray_driver.file(number) for number in range(count)], ended=True)
    work = PendingWork(config, recipe, archive, listed)
    work.look()
    total = count * ray_driver.SEGMENTS_A_VIDEO
    done, store = threading.Event(), nodes.Store(Path(os.environ["RAY_TMPDIR"]))
    changes = Changes(run, total, cluster)
    with (
        connected(run._plan) as resources,
        ModelHosts(resources, run._plan) as hosts,
        archive.held(),
        ExitStack() as stack,
    ):
        run._begin(archive)
        threads = [threading.Thread(target=each, args=(done,)) for each in (store.watch, changes.make)]
        for thread in threads:
            thread.start()
        before_s, began, version = ray_driver.cpu_s(), time.time(), archive.table("segments").version
        try:
            run._index(work, resources, hosts, stack)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        took_s, driver_s = time.time() - began, ray_driver.cpu_s() - before_s
        commits = archive.table("segments").version - version
    assert run.report.segments_indexed == archive.count("segments") == total, run.ledger.standing()[:1]
    said(options, total, took_s, driver_s, commits, store, changes)


@dataclass
class Changes:
    """What is done to the cluster while the run goes on, and when."""

    run: Run
    total: int
    cluster: subprocess.Popen[str]
    killed_s: float = 0.0
    joined_s: float = 0.0

    def make(self, until: threading.Event) -> None:
        """Kill a node and have one join when so much is done."""
        assert self.cluster.stdin is not None
        for share, line in ((KILL_AT, "kill"), (JOIN_AT, "join")):
            while self.run.report.segments_indexed < share * self.total:
                if until.wait(0.2):
                    return
            self.cluster.stdin.write(f"{line}\n")
            self.cluster.stdin.flush()
            if line == "kill":
                self.killed_s = time.time()
            else:
                self.joined_s = time.time()


def said(
    options: argparse.Namespace,
    total: int,
    took_s: float,
    driver_s: float,
    commits: int,
    store: nodes.Store,
    changes: Changes,
) -> None:
    """Print the tables."""
    batches = defaultdict[int, list[tuple[float, float]]](list)
    for line in Path(SleepingEncoder.log).read_text().splitlines():
        pid, *times = line.split()
        batches[int(pid)].append((float(times[0]), float(times[1])))
    began = min(each[0][0] for each in batches.values())
    last = max(each[-1][1] for each in batches.values())
    # From the end of its first batch to its last one.
    up_s = sum(each[-1][1] - each[0][1] for each in batches.values())
    asleep_s = sum(end - begin for each in batches.values() for begin, end in each[1:])
    late = sorted(each[0][0] - changes.joined_s for each in batches.values() if each[0][0] > changes.joined_s)
    rate = total / (last - began)
    real = FRAMES * REAL_SIDE**2 / (FRAMES * SIDE**2)
    blocks = total / options.together
    print(f"{total} segments, {options.together} together; {took_s:.0f} s, {rate:.0f} segments/s, as")
    print(f"{rate * FRAMES / A100_FRAMES_S:.0f} A100s at {A100_FRAMES_S} frames/s; {os.cpu_count()} cores\n")
    print("| | |\n|---|---|")
    print(f"| encoders that worked, and at once | {len(batches)}, {options.nodes * options.gpus} |")
    print(f"| of their time idle, once up | {1 - asleep_s / up_s:.1%} |")
    print(
        f"| seconds from a node's joining to the first batch there | {late[0] if late else float('nan'):.1f} |"
    )
    print(f"| driver's CPU, of a core | {driver_s / took_s:.0%} |")
    print(
        f"| driver's CPU, ms a segment, ms a block | {1e3 * driver_s / total:.2f}, {1e3 * driver_s / blocks:.1f} |"
    )
    print(
        f"| driver's memory at its peak, MB | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} |"
    )
    full = real * store.peak_bytes / 1e9
    print(
        f"| object store at its peak, MB; with real frames, GB | {store.peak_bytes / 1e6:.0f}; {full:.0f} |"
    )
    print(f"| spilled, bytes | {store.spilled_bytes} |")
    print(f"| commits, a minute | {commits}, {60 * commits / took_s:.0f} |")


if __name__ == "__main__":
    if "RAY_AUTH_TOKEN" not in os.environ:
        # Ray reads these when it is imported; a folder of their own keeps others out of the cluster.
        with tempfile.TemporaryDirectory(prefix="ray-") as home:
            apart = {"RAY_TMPDIR": home, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            apart |= {"RAY_num_workers_soft_limit": "24"}
            sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | apart))
    main()
