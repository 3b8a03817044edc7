"""Scaling from one node to four, and how much waits between decoding and encoding.

    python benchmarks/nodes.py [--nodes 1 4] [--gpus 0] [--segments-a-node 20]

All nodes are Ray nodes on this machine, each declared with one CPU. The stages are those of a run, wired by
`malmm.pipeline.indexing.graph.indexing`, with resources chosen as for a run. Only the encoder is replaced: it sleeps as
long as a GPU would take and returns one slot of zeros. All other work is real and shares this machine's cores, so the
sleep must be much longer than that work: the columns say how much of the time the encoders slept.

Work is counted from the moment when every encoder has finished its first batch to the end of the last one. `store` is
the peak of Ray's object store on all nodes together, against all decoded frames of the run.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from malmm.model.checkpoints.resolve import open_models
from malmm.operators.encode import EncodeSegments
from malmm.operators.plan_segments import segments_of
from malmm.operators.probe import probe_files
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing import graph as stages
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.rows import ENCODED, FILES, Carried, carried, rows_table, with_arrays

FRAMES, SIDE = 100, 224
STORE_BYTES = 256 << 20
# A separate program, which never loads Lance. It runs a head without CPUs and the nodes until standard input ends.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

nodes, gpus, store = map(int, sys.argv[1:])
kept = {"num_workers_soft_limit": 10}
head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": store, "_system_config": kept}
cluster = Cluster(initialize_head=True, head_node_args=head)
for _ in range(nodes):
    cluster.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=store)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


class SleepingEncoder(EncodeSegments):
    """Sleeps ``frame_s`` seconds a frame and writes to ``log`` when it did so. Its one slot has zeros of ``shape``."""

    frame_s = 0.0
    log = ""
    shape: tuple[int, ...] = (1, 8)

    def __init__(self, **options: Any) -> None:
        self.prompts = options["prompts"]
        config = open_models(options["model"], "none").instructblip.config
        self.queries = (
            len(self.prompts),
            config["num_query_tokens"],
            config["qformer_config"]["hidden_size"],
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        """``DECODED`` to ``ENCODED``."""
        began = time.time()
        counts = [shape[0] if shape else 0 for shape in rows["frames_shape"].to_pylist()]
        time.sleep(self.frame_s * sum(counts))
        made = [
            row.columns() | (self._made(row, count) if row.failure is None else {})
            for row, count in zip(carried(rows), counts, strict=True)
        ]
        with Path(self.log).open("a") as log:
            log.write(f"{os.getpid()} {began} {time.time()}\n")
        return rows_table(made, ENCODED)

    def _made(self, row: Carried, count: int) -> dict[str, Any]:
        assert row.segment is not None
        begin_s, end_s = row.segment.start_s, row.segment.end_s
        slot = {"start_s": begin_s, "end_s": end_s, "timestamp_s": begin_s, "frame_count": count}
        columns = {
            "frame_count": count,
            "decoded_end_s": end_s,
            "slots": [slot | {"thumbnail": b""}],
            "prompts": list(range(len(self.prompts))),
        }
        return with_arrays(
            columns,
            tokens=np.zeros((1, *self.shape), np.float16),
            sizes=np.full((1, self.shape[0]), count, np.int32),
            query_output=np.zeros(self.queries, np.float32),
        )


@dataclass
class Store:
    """The object store of all nodes, polled twice a second."""

    home: Path
    peak_bytes: float = 0.0
    spilled_bytes: int = 0

    def watch(self, until: threading.Event) -> None:
        """Look until told to stop."""
        while not until.wait(0.5):
            total, free = ray.cluster_resources(), ray.available_resources()
            used = total["object_store_memory"] - free.get("object_store_memory", 0.0)
            self.peak_bytes = max(self.peak_bytes, used)
            # Ray makes these folders when it spills for the first time.
            spilled = self.home.glob("ray/session_*/ray_spilled_objects*/**/*")
            self.spilled_bytes = max(self.spilled_bytes, sum(path.stat().st_size for path in spilled))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[1, 4], help="sizes of clusters; the first is the baseline"
    )
    parser.add_argument("--gpus", type=int, default=0, help="of each node, to Ray's eye (%(default)s)")
    parser.add_argument(
        "--segment-s", type=float, default=6.0, help="that a GPU takes for 100 frames (%(default)s)"
    )
    parser.add_argument("--segments-a-node", type=int, default=20, help="(%(default)s)")
    options = parser.parse_args()
    SleepingEncoder.frame_s = options.segment_s / FRAMES
    # Starting ffmpeg and the clusters after Lance was loaded: they are new programs.
    warnings.filterwarnings("ignore", message=".*lancedb fork support")
    warnings.filterwarnings("ignore", message=".*lance is not fork-safe")
    # Workers get the class itself: they could not import this file.
    stages.ENCODER = SleepingEncoder
    print(
        f"segments of {FRAMES} frames of {SIDE}x{SIDE}, {FRAMES * SIDE**2 * 3 / 1e6:.0f} MB each; encoding one sleeps"
        f" {options.segment_s:g} s; decoding, writing and all else is real, on {os.cpu_count()} cores\n"
    )
    print(
        "| nodes | encoders | frames/s | of the first | asleep | store MB, most | of decoded MB | spilled |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    baseline = None
    for nodes in options.nodes:
        with tempfile.TemporaryDirectory(prefix="malmm-nodes-") as folder:
            rate, row = measure(nodes, options.gpus, options.segments_a_node * nodes, Path(folder))
        baseline = baseline or rate
        print(
            f"| {nodes} | {row[0]} | {rate:.1f} | {rate / baseline:.2f} | {' | '.join(row[1:])} |", flush=True
        )


def measure(nodes: int, gpus: int, segments: int, folder: Path) -> tuple[float, list[str]]:
    """Index so many segments on a new cluster; return frames a second, and the other columns of the table."""
    SleepingEncoder.log = str(folder / "log.txt")
    Path(SleepingEncoder.log).touch()
    command = [sys.executable, "-c", CLUSTER, str(nodes), str(gpus), str(STORE_BYTES)]
    cluster = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert cluster.stdout is not None
        os.environ["RAY_ADDRESS"] = cluster.stdout.readline().strip()
        with connected() as resources:
            done = threading.Event()
            store = Store(Path(os.environ["RAY_TMPDIR"]))
            watching = threading.Thread(target=store.watch, args=(done,))
            watching.start()
            try:
                index(segments, folder, resources)
            finally:
                done.set()
                watching.join()
    finally:
        cluster.communicate()
        del os.environ["RAY_ADDRESS"]
    lines = [line.split() for line in Path(SleepingEncoder.log).read_text().splitlines()]
    batches = [(int(encoder), float(began), float(ended)) for encoder, began, ended in lines]
    encoders = {encoder for encoder, _, _ in batches}
    begin = max(min(ended for of, _, ended in batches if of == encoder) for encoder in encoders)
    end = max(ended for _, _, ended in batches)
    # A batch that had begun before counts for the share of its time that is left.
    asleep_s = sum(max(0.0, ended - max(began, begin)) for _, began, ended in batches)
    decoded_mb = segments * FRAMES * SIDE**2 * 3 / 1e6
    return asleep_s / SleepingEncoder.frame_s / (end - begin), [
        str(len(encoders)),
        f"{asleep_s / (end - begin) / len(encoders):.0%}",
        f"{store.peak_bytes / 1e6:.0f}",
        f"{decoded_mb:.0f}",
        str(store.spilled_bytes),
    ]


def index(segments: int, folder: Path, resources: Resources) -> None:
    """Decode, encode, generate and write so many segments."""
    seconds = FRAMES / 2
    video = folder / "video.mp4"
    draw(video, seconds * segments)
    config = IndexConfig(
        (str(video),), str(folder / "archive"), model="debug", batch_segments=1, max_new_tokens=1
    )
    recipe = Recipe("debug", "sleeps", "none", "none", 2.0, seconds, 1, "token", SIDE)
    archive = Archive.create_or_open(config.archive, recipe, 8)
    files = rows_table([{"uri": str(video), "fingerprint": "1", "metadata": ""}], FILES)
    [probed] = carried(probe_files(files))
    assert probed.video is not None, probed.failure
    spans = segments_of(probed.video, recipe.recipe_id, recipe.segment_s, recipe.fps)
    planned = stages.planned_before([Carried(probed.video, span, None) for span in spans])
    receipts = 0
    wiring = stages.Wiring(config, recipe, resources)
    with ModelHosts(resources) as hosts:
        memories = archive.schema("memories")
        made = stages.indexing(planned, wiring, hosts, archive.uri, memories, expected=segments)
        for block in hosts.watched(received(made)):
            if block is not None:
                assert all(row.failure is None for row in carried(block)), carried(block)
                receipts += block.num_rows
    assert receipts == segments, f"{receipts} of {segments} segments came back"


def draw(path: Path, duration_s: float) -> None:
    """A small video of two frames a second."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i"]
    command += [
        f"testsrc2=size=64x48:rate=2:duration={duration_s}",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
    ]
    subprocess.run([*command, "-g", "20", "-pix_fmt", "yuv420p", str(path)], check=True)


if __name__ == "__main__":
    if "RAY_AUTH_TOKEN" not in os.environ:
        # Ray reads these when it is imported; a folder of their own keeps others out of the clusters.
        with tempfile.TemporaryDirectory(prefix="ray-") as home:
            apart = {"RAY_TMPDIR": home, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
            sys.exit(subprocess.call([sys.executable, *sys.argv], env=os.environ | apart))
    main()
