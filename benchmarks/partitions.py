"""Eight drivers at once, each with a partition of one job: a node is killed, then a driver; are all rows there, once?

    python benchmarks/partitions.py [--partitions 8] [--at-once 8] [--nodes 4] [--gpus 2] [--videos 32] [--segment-s 3]

All nodes are Ray nodes on this machine, a head without CPUs and nodes with logical GPUs. Each driver is a program and a
Ray job of its own: `malmm index --partitions N --partition K --share 1/N`, with an encoder that sleeps as long as a GPU
would take (`benchmarks/nodes.py`); all other stages are real. When a third of the segments is committed a node is
killed, and when half of them is, a driver, which is started again. Drivers that did not end well, because the node had
something of theirs that cannot be replaced, are started again, too. Then the rows of all partitions are compared with
those that one driver without partitions has stored. Exits with 1 if a row is lost, doubled or changed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nodes
from archive_flaws import Flaws, compared, count, rows_of
from ray import cloudpickle

from malmm.jobs.cli import main as malmm
from malmm.model.checkpoints.resolve import open_models
from malmm.model.families.registry import token_shape
from malmm.pipeline import ArchiveReader
from malmm.pipeline.archive.joined import JoinedArchive, open_archives
from malmm.pipeline.archive.partition_status import status_of_partitions
from malmm.pipeline.archive.partitions import partitioned_at
from malmm.pipeline.indexing import graph as stages
from malmm.pipeline.schema.partition import all_partitions

SEGMENTS_A_VIDEO, FRAMES_A_SEGMENT = 3, 4
MOST_TRIES = 4
LOOK_EVERY_S = 0.5
# A separate program, which never loads Lance. It kills a node for each line that it reads, and ends with its input.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

nodes, cpus, gpus, store = map(int, sys.argv[1:])
head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store}
cluster = Cluster(initialize_head=True, head_node_args=head)
others = [cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=store) for _ in range(nodes)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(others.pop(), allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()
"""


@dataclass
class Driver:
    """A program that indexes one partition, or all videos without partitions."""

    index: int
    archive: str
    command: list[str]
    notes: Path
    tries: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, once more."""
        self.tries += 1
        with self.notes.open("ab") as said:
            self.process = subprocess.Popen(self.command, stdout=said, stderr=said, start_new_session=True)

    def kill(self) -> None:
        """Kill it with all that it started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Shared:
    """The drivers of all partitions while they run, and what is done to them."""

    drivers: list[Driver]
    segments: int
    at_once: int
    cluster: subprocess.Popen[str]
    events: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Start all drivers, some at once, until each has ended well; kill a node and a driver on the way."""
        began = time.monotonic()
        waiting, running = list(self.drivers), list[Driver]()
        node_killed = driver_killed = False
        while waiting or running:
            while waiting and len(running) < self.at_once:
                running.append(waiting.pop(0))
                running[-1].start()
            time.sleep(LOOK_EVERY_S)
            done = sum(count(driver.archive, "segments") for driver in self.drivers)
            if not node_killed and done >= self.segments / 3:
                node_killed = True
                self._kill_node()
                self._note(began, f"{done} of {self.segments} segments: a node killed")
            if not driver_killed and done >= self.segments / 2:
                driver_killed = True
                running[0].kill()
                self._note(began, f"{done} of {self.segments} segments: driver {running[0].index} killed")
            for driver in [each for each in running if each.process and each.process.poll() is not None]:
                running.remove(driver)
                code = driver.process.returncode if driver.process else None
                if code == 0:
                    continue
                self._note(began, f"driver {driver.index} ended with {code}")
                if driver.tries == MOST_TRIES:
                    raise SystemExit(driver.notes.read_text()[-3000:])
                waiting.append(driver)

    def _kill_node(self) -> None:
        assert self.cluster.stdin is not None
        assert self.cluster.stdout is not None
        self.cluster.stdin.write("kill\n")
        self.cluster.stdin.flush()
        assert self.cluster.stdout.readline().strip() == "killed"

    def _note(self, began: float, event: str) -> None:
        self.events.append(event)
        print(f"{time.monotonic() - began:6.1f} s  {event}", flush=True)


def main() -> None:
    """Run both ways, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # Told to end, it still ends the drivers, which are in sessions of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser.add_argument("--partitions", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--at-once", type=int, default=8, help="drivers that run at a time (%(default)s)")
    parser.add_argument("--nodes", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--cpus", type=int, default=4, help="of each node, to Ray's eye (%(default)s)")
    parser.add_argument("--gpus", type=int, default=2, help="of each node, to Ray's eye (%(default)s)")
    parser.add_argument("--videos", type=int, default=32, help="of three segments each (%(default)s)")
    parser.add_argument("--segment-s", type=float, default=3.0, help="that a GPU takes (%(default)s)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*lancedb fork support")
    warnings.filterwarnings("ignore", message=".*lance is not fork-safe")
    with tempfile.TemporaryDirectory(prefix="malmm-partitions-") as name:
        sys.exit(int(measure(options, Path(name)).any))


def measure(options: argparse.Namespace, folder: Path) -> Flaws:
    """Index with one driver, then with all; print what happened and a table."""
    videos = folder / "videos"
    videos.mkdir()
    nodes.draw(videos / "video-000.mp4", SEGMENTS_A_VIDEO * FRAMES_A_SEGMENT)
    for number in range(1, options.videos):
        os.link(videos / "video-000.mp4", videos / f"video-{number:03d}.mp4")
    segments = SEGMENTS_A_VIDEO * options.videos
    clean, shared = str(folder / "clean"), str(folder / "shared")
    program = [sys.executable, __file__, "--drive", str(options.segment_s / FRAMES_A_SEGMENT)]
    given = [*program, "index", str(videos), *("--model", "debug", "--retrieval-model", "none", "--fps", "1")]
    given += [
        "--segment-s",
        str(FRAMES_A_SEGMENT),
        "--batch-segments",
        "1",
        "--max-new-tokens",
        "1",
        "--json",
    ]
    size = [str(each) for each in (options.nodes, options.cpus, options.gpus, nodes.STORE_BYTES)]
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, *size], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    alone = Driver(0, clean, [*given, "--archive", clean], folder / "alone.txt")
    parts = all_partitions(options.partitions)
    drivers = [
        Driver(
            each.index,
            each.below(shared),
            [
                *given,
                *("--archive", shared, "--partitions", str(each.number), "--partition", str(each.index)),
                *("--share", f"{1 / each.number:g}"),
            ],
            folder / f"{each.name}.txt",
        )
        for each in parts
    ]
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        if not address:
            # Without one, drivers would join whatever Ray runs on this machine.
            raise SystemExit("the cluster did not start: the machine may be too busy")
        os.environ["RAY_ADDRESS"] = address
        began = time.monotonic()
        alone.start()
        assert alone.process is not None
        if alone.process.wait() != 0:
            raise SystemExit(alone.notes.read_text()[-3000:])
        alone_s, began = time.monotonic() - began, time.monotonic()
        together = Shared(drivers, segments, options.at_once, cluster)
        together.run()
        together_s = time.monotonic() - began
    finally:
        for driver in (alone, *drivers):
            if driver.process is not None and driver.process.poll() is None:
                driver.kill()
        cluster.communicate()
    return said(clean, shared, drivers, alone_s, together_s)


def said(clean: str, shared: str, drivers: list[Driver], alone_s: float, together_s: float) -> Flaws:
    """Compare the rows, and print the table."""
    expected = rows_of(ArchiveReader.open(clean))
    archive = open_archives(shared)
    assert isinstance(archive, JoinedArchive)
    assert not archive.members.left_out
    found: dict[str, Counter[Any]] = {name: Counter() for name in expected}
    for each in archive.archives:
        for name, rows in rows_of(each).items():
            found[name] += rows
    flaws = compared(found, expected)
    fixed = partitioned_at(shared)
    assert fixed is not None
    status = status_of_partitions(archive, fixed).to_dict()
    held = [part["rows"]["segments"] for part in status["partitions"]]
    print(
        "\n| drivers | s | segments | of a partition | started again | lost | twice | changed | strange | orphans |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(f"| 1 | {alone_s:.0f} | {sum(expected['segments'].values())} | | | | | | | |")
    again = sum(driver.tries - 1 for driver in drivers)
    wrong = f"{flaws.lost} | {flaws.twice} | {flaws.changed} | {flaws.strange} | {flaws.orphans}"
    spread = f"{min(held)} to {max(held)}"
    print(f"| {len(held)} | {together_s:.0f} | {status['rows']['segments']} | {spread} | {again} | {wrong} |")
    return flaws


def drive(frame_s: float, arguments: list[str]) -> int:
    """In a driver: `malmm` with an encoder that sleeps. Workers get the class itself, as they cannot import it."""
    cloudpickle.register_pickle_by_value(nodes)
    nodes.SleepingEncoder.frame_s = frame_s
    nodes.SleepingEncoder.log = os.devnull
    # Texts of whole videos are made from what is stored.
    nodes.SleepingEncoder.shape = token_shape(open_models("debug", "none").checkpoint)
    stages.ENCODER = nodes.SleepingEncoder
    return malmm(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--drive"]:
        sys.exit(drive(float(sys.argv[2]), sys.argv[3:]))
    if "RAY_AUTH_TOKEN" not in os.environ:
        # Ray reads these when it is imported; a folder of their own keeps others out of the cluster.
        with tempfile.TemporaryDirectory(prefix="ray-") as home:
            apart = {"RAY_TMPDIR": home, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            apart |= {"RAY_num_workers_soft_limit": "10"}
            sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | apart))
    main()
