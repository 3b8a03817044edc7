"""CPU time of the driver for each segment: a million planned segments, without workers.

    python benchmarks/driver.py [--segments 1000000] [--segments-a-commit 1000]

The driver's own code, `malmm.pipeline.indexing.driver.Run`, gets the plans of invented videos of an hour, and a receipt
for each segment, as if workers had sent them. It commits them to a real archive, with one text each and no memory. The
time to make plans and receipts is subtracted, since that is the workers' work. Ray's own work is not included. A commit
is made for a number of segments instead of every three seconds. When a table has a thousand files, Ray is started to
compact it, which is included. The table has a row for each tenth of the segments, to show growth with the archive's
size."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from invented_receipts import invented_receipt

from malmm.model.checkpoints.resolve import open_models
from malmm.operators.plan_segments import segments_of
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing import run_loop, segment_commits
from malmm.pipeline.indexing.driver import Run
from malmm.pipeline.indexing.file_queue import FileQueue
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import RECEIPTS, Carried, rows_table
from malmm.pipeline.schema.video_plans import VideoPlan, plans_table
from malmm.pipeline.sources.listing import SourceFile

SEGMENT_S, SEGMENTS_A_VIDEO = 100.0, 36
PARTS = 10


class Workers:
    """Stands in for the workers: makes receipts, and measures how long that takes."""

    def __init__(self, archive: Archive, videos: list[Video], recipe: Recipe, a_block: int) -> None:
        self.archive, self.videos, self.recipe, self.a_block = archive, videos, recipe, a_block
        self.making_s = 0.0
        self.marks: list[tuple[int, float]] = []
        self.total = len(videos) * SEGMENTS_A_VIDEO

    def blocks(self, queue: FileQueue) -> Iterator[pa.Table]:
        """What workers send, block by block, and each video's plan before its first segment."""
        sent, waiting = 0, []
        self._mark(0)
        for video in self.videos:
            began = time.perf_counter()
            segments = segments_of(video, self.recipe.recipe_id, SEGMENT_S, self.recipe.fps)
            queue.note(plans_table([VideoPlan.of(video, segments, [False] * len(segments))]), True)
            self.making_s += time.perf_counter() - began
            for segment in segments:
                waiting.append((video, segment))
                if len(waiting) == self.a_block or sent + len(waiting) == self.total:
                    yield self._made(waiting)
                    # Back here, the driver has taken and committed them.
                    before, sent = sent, sent + len(waiting)
                    waiting = []
                    if before * PARTS // self.total != sent * PARTS // self.total:
                        self._mark(sent)

    def _mark(self, sent: int) -> None:
        self.marks.append((sent, time.perf_counter() - self.making_s))

    def _made(self, work: list[tuple[Video, Segment]]) -> pa.Table:
        began = time.perf_counter()
        rows = [self._row(video, segment) for video, segment in work]
        table = rows_table(rows, RECEIPTS)
        self.making_s += time.perf_counter() - began
        return table

    def _row(self, video: Video, segment: Segment) -> dict[str, Any]:
        receipt = invented_receipt(segment, self.recipe.recipe_id, frames=100)
        return Carried(video, segment, None).columns() | {"problem": None, "receipt": vars(receipt)}


def main() -> None:
    """Plan, commit, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--segments-a-commit", type=int, default=1000, help="(%(default)s)")
    options = parser.parse_args()
    count = -(-options.segments // SEGMENTS_A_VIDEO)
    segment_commits.COMMIT_EVERY_S = 0.0
    with tempfile.TemporaryDirectory(prefix="malmm-driver-") as folder:
        place = str(Path(folder) / "archive")
        recipe = Recipe("debug", "none", "none", "none", 1.0, SEGMENT_S, 20, "token", 224)
        archive = Archive.create_or_open(place, recipe, 8)
        config = IndexConfig((folder,), place, model="debug")
        run = Run(config, recipe, open_models("debug"), 8, IndexReport(place, "debug"), lambda progress: None)
        videos = [_video(number) for number in range(count)]
        workers = Workers(archive, videos, recipe, options.segments_a_commit)
        run_loop.RemoteFileQueue = lambda positions, actor: FileQueue(positions)  # type: ignore[misc, assignment, return-value]
        run_loop.surveying = lambda wiring, queue, *_: queue
        run_loop.indexing = lambda planned, *_, **__: planned
        run_loop.received = workers.blocks  # type: ignore[assignment]
        listed: Any = SimpleNamespace(found=[_file(video) for video in videos], ended=True)
        work = PendingWork(config, recipe, archive, listed)
        work.look()
        resources = Resources(1, 1, 1, 0, 1, 1, 0, 1)
        with connected(), ModelHosts(resources) as hosts, archive.held(), ExitStack() as stack:
            run._begin(archive)
            began = time.perf_counter()
            run._index(work, resources, hosts, stack)
            ended = time.perf_counter()
        rows = archive.count("segments")
        assert rows == workers.total == run.report.segments_indexed, (rows, workers.total)
        assert archive.count("videos") == count == run.report.videos_indexed
    print(f"{rows} segments of {count} videos, a commit for {options.segments_a_commit}\n")
    print("| segments | driver s | µs a segment |\n|---|---|---|")
    first = began
    for (_, at), (sent, until) in zip([(0, first), *workers.marks], workers.marks, strict=False):
        name = f"to {sent}" if sent else "listing"
        share = (until - at) / (workers.total / PARTS if sent else workers.total)
        print(f"| {name} | {until - at:.1f} | {1e6 * share:.0f} |")
    after_s = ended - workers.making_s - workers.marks[-1][1]
    print(f"| after the last | {after_s:.1f} | {1e6 * after_s / workers.total:.0f} |")
    whole_s = ended - began - workers.making_s
    print(f"| all | {whole_s:.1f} | {1e6 * whole_s / workers.total:.0f} |")
    print(f"\nThe driver's peak: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB.")


def _file(video: Video) -> SourceFile:
    return SourceFile(video.uri, 1, video.fingerprint)


def _video(number: int) -> Video:
    uri = f"s3://archive/{number // 1000:04d}/{number:08d}.mp4"
    return Video(
        video_id(uri), uri, f"etag-{number}", 0.0, SEGMENT_S * SEGMENTS_A_VIDEO, 25.0, 1920, 1080, "h264"
    )


if __name__ == "__main__":
    main()
