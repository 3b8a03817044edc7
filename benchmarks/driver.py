"""What the driver of a run costs a segment: a million planned segments, with workers that do nothing.

    python benchmarks/driver.py [--segments 1000000] [--segments-a-commit 1000]

The driver's own code, `malmm.pipeline.indexing.driver.Run`, takes the plans of made-up videos of an hour and a
receipt for each segment as if workers had sent them, and commits them to a real archive with one text each and no
memory. Making plans and receipts is the workers' part, so its time is taken off; Ray's own work is not in it either, as
there are no workers. A commit is made for every so many segments instead of every three seconds; where they make a
thousand files of a table, Ray is started to merge them, and that is in it. The table has a row for each tenth of the
segments, so that what grows with the archive shows."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from malmm.model.checkpoints.resolve import open_models
from malmm.operators.plan import segments_of
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing import run_loop, segment_commits
from malmm.pipeline.indexing.driver import Run
from malmm.pipeline.indexing.file_queue import FileQueue
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.reports import IndexReport
from malmm.pipeline.schema.config import CAPTION, IndexConfig, Recipe
from malmm.pipeline.schema.ids import annotation_id, video_id
from malmm.pipeline.schema.plans import VideoPlan, plans_table
from malmm.pipeline.schema.receipts import Receipt
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import RECEIPTS, Carried, rows_table
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS
from malmm.pipeline.sources.listing import SourceFile

SEGMENT_S, SEGMENTS_A_VIDEO = 100.0, 36
PARTS = 10


class Workers:
    """Receipts in the place of a dataset's, and how long it took to make them."""

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
        done = {
            "segment_id": segment.segment_id,
            "video_id": video.video_id,
            "index": segment.index,
            "start_s": segment.start_s,
            "end_s": segment.end_s,
            "frame_count": 100,
            "recipe_id": self.recipe.recipe_id,
        }
        text = {name: done[name] for name in ("segment_id", "video_id", "start_s", "end_s")} | {
            "annotation_id": annotation_id(segment.segment_id, CAPTION.version, "none", "online"),
            "task": CAPTION.task,
            "prompt_name": CAPTION.name,
            "prompt": CAPTION.text,
            "prompt_version": CAPTION.version,
            "text": "a red circle moves to the left, then a blue square stays where it is",
            "mode": "online",
            "model": "debug",
            "created_at": datetime.now(UTC),
        }
        # As `write_rows` makes them, which looks at the archive for each.
        row, texts = (
            pa.RecordBatch.from_pylist([each], schema=schema).serialize().to_pybytes()
            for each, schema in ((done, SEGMENTS), (text, ANNOTATIONS))
        )
        receipt = Receipt(segment.segment_id, video.video_id, (), 0, texts, 1, row)
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
        run_loop.RemoteFileQueue = FileQueue  # type: ignore[misc, assignment]
        run_loop.surveying = lambda wiring, queue, *_: queue
        run_loop.indexing = lambda planned, *_, **__: planned
        run_loop.received = workers.blocks  # type: ignore[assignment]
        listed: Any = SimpleNamespace(found=[_file(video) for video in videos], ended=True)
        work = PendingWork(config, recipe, archive, listed)
        work.look()
        with connected(), archive.held(), ExitStack() as stack:
            run._begin(archive)
            began = time.perf_counter()
            run._index(work, Resources(1, 1, 1, 0, 1, 1, 0, 1), stack)
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
