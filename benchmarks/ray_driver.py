"""CPU time of the driver for each segment, with Ray's part: the real graph on a real Ray, with empty operators.

    python benchmarks/ray_driver.py [--segments 1000] [--together 1 4 8]

Segments of invented videos of an hour go through all stages as rows without frames and memory, one by one and several
together, and are committed to a real archive. CPU time is that of all threads of the driver's process, in which Ray
Data schedules; Ray's node and control processes are not counted. Workers share the machine, so segments a second do not
show the driver's limit, but its CPU time does: the last column is that limit for a driver with one core, in frames a
second, if a segment has 100 frames.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from invented_receipts import invented_receipt

from malmm.model.checkpoints.resolve import open_models
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing import driver as driving
from malmm.pipeline.indexing import graph as stages
from malmm.pipeline.indexing.driver import Run
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    PROBED,
    RECEIPTS,
    Carried,
    carried,
    rows_table,
)
from malmm.pipeline.sources.listing import SourceFile

SEGMENT_S, SEGMENTS_A_VIDEO, FRAMES_A_SEGMENT = 100.0, 36, 100
RESOURCES = Resources(
    decode_workers=1,
    decode_cpus=1.0,
    encode_workers=1,
    encode_cpus=0.25,
    encode_gpus=0,
    generate_workers=1,
    generate_cpus=0.25,
    generate_gpus=0,
)


def probe(files: pa.Table, **_: Any) -> pa.Table:
    """In the place of ``probe_files``: every file is a video of an hour."""
    length_s = SEGMENT_S * SEGMENTS_A_VIDEO
    rows = [
        Carried(
            Video(video_id(uri), uri, "etag", 0.0, length_s, 25.0, 1920, 1080, "h264"), None, None
        ).columns()
        for uri in files["uri"].to_pylist()
    ]
    return rows_table(rows, PROBED)


def decode(rows: pa.Table, **_: Any) -> pa.Table:
    """In the place of ``decode_segments``."""
    return rows_table([row.columns() for row in carried(rows)], DECODED)


class Encode:
    """In the place of ``EncodeSegments``."""

    schema = ENCODED

    def __init__(self, **_: Any) -> None:
        pass

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Pass rows on."""
        return rows_table([row.columns() for row in carried(rows)], self.schema)


class Generate(Encode):
    """In the place of ``GenerateTexts``."""

    schema = ANSWERED


def write(rows: pa.Table, *, recipe: Recipe, **_: Any) -> pa.Table:
    """In the place of ``write_segments``: receipts, and no fragments."""
    return rows_table(
        [
            row.columns()
            | {"receipt": vars(invented_receipt(row.segment, recipe.recipe_id, frames=FRAMES_A_SEGMENT))}
            for row in carried(rows)
            if row.segment is not None
        ],
        RECEIPTS,
    )


def main() -> None:
    """A run for each number of segments together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--together", type=int, nargs="+", default=[1, 4, 8], help="(%(default)s)")
    options = parser.parse_args()
    stages.probe_files, stages.decode_segments, stages.write_segments = probe, decode, write  # type: ignore[assignment]
    stages.ENCODER, stages.GENERATOR = Encode, Generate
    print("| together | segments | s | driver's CPU, ms a segment | frames/s at most |")
    print("|---|---|---|---|---|", flush=True)
    for together in options.together:
        measure(options.segments, together)


def measure(segments: int, together: int) -> None:
    """Index so many segments and print a row."""
    driving.segments_a_block = lambda *_: together
    with tempfile.TemporaryDirectory(prefix="malmm-ray-driver-") as folder:
        place = str(Path(folder) / "archive")
        recipe = Recipe("debug", "none", "none", "none", 1.0, SEGMENT_S, 20, "token", 224)
        archive = Archive.create_or_open(place, recipe, 8)
        config = IndexConfig((folder,), place, model="debug", batch_segments=together)
        run = Run(config, recipe, open_models("debug"), 8, IndexReport(place, "debug"), lambda progress: None)
        listed: Any = SimpleNamespace(
            found=[file(number) for number in range(-(-segments // SEGMENTS_A_VIDEO))], ended=True
        )
        work = PendingWork(config, recipe, archive, listed)
        work.look()
        with connected(), ModelHosts(RESOURCES) as hosts, archive.held(), ExitStack() as stack:
            run._begin(archive)
            before_s, began = cpu_s(), time.perf_counter()
            run._index(work, RESOURCES, hosts, stack)
            took_s, driver_s = time.perf_counter() - began, cpu_s() - before_s
    count = run.report.segments_indexed
    assert count == len(work.files) * SEGMENTS_A_VIDEO, run.ledger.standing()[:1]
    most = FRAMES_A_SEGMENT * count / driver_s
    print(f"| {together} | {count} | {took_s:.0f} | {1e3 * driver_s / count:.1f} | {most:.0f} |", flush=True)


def cpu_s() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def file(number: int) -> SourceFile:
    """One that is nowhere."""
    return SourceFile(f"s3://archive/{number // 1000:04d}/{number:08d}.mp4", 1, f"etag-{number}")


if __name__ == "__main__":
    main()
