"""A run with something to do: probes, indexes, commits as receipts come, and describes whole videos.

It may be killed at any moment and run again: all that it decides is a function of the sources and of what is
committed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from malmm.model.checkpoints.resolve import Models
from malmm.model.checkpoints.verify import verify_models
from malmm.model.footprint import slot_bytes
from malmm.operators.plan import segments_of
from malmm.pipeline.archive.compaction import Rewrite
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.compilers import check_compilers
from malmm.pipeline.indexing.graph import indexing, probing, replaying, segments_a_block
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.metrics import RunMetrics
from malmm.pipeline.indexing.owed_texts import missing_annotations
from malmm.pipeline.indexing.replay_commits import COMMIT_EVERY_S, Describing
from malmm.pipeline.indexing.reports import IndexReport, Plan
from malmm.pipeline.indexing.work import Work
from malmm.pipeline.indexing.worker_compaction import rewriting_on_workers
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.ids import failure_id, video_id
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.receipts import Receipt
from malmm.pipeline.schema.records import Failure, Segment, Video
from malmm.pipeline.schema.rows import FILES, TO_PLAN, Carried, carried, rows_table
from malmm.pipeline.schema.tables import VIDEOS
from malmm.pipeline.sources.listing import SourceFile, is_gone

__all__ = ["Run"]

# A table of this many small files is worth rewriting when all is indexed, and of this many in the middle of it.
MANY_FILES, TOO_MANY_FILES = 32, 1000
_COMMITS_A_LOOK = 100
_TELL_EVERY_S = 0.1
# Workers that died, a store that was away, memory that ran out: what fails so is tried again after these pauses.
RETRY_PAUSES_S = (2.0, 15.0)
_SEGMENT_STAGES = ("decode", "encode", "generate", "write", "index")
_VIDEO_STAGES = ("list", "probe", "index")


@dataclass(frozen=True)
class _Written:
    """A segment that can be committed; ``cut`` says that not all of it could be decoded."""

    receipt: Receipt
    row: Carried
    cut: bool

    def settled(self) -> list[str]:
        """Ids of the failures that this segment may have had and now has no more."""
        stages = _SEGMENT_STAGES[1:] if self.cut else _SEGMENT_STAGES
        return [failure_id(self.receipt.video_id, self.receipt.segment_id, stage) for stage in stages]


@dataclass
class Run:
    """The driver's side of one run."""

    config: IndexConfig
    recipe: Recipe
    models: Models
    vector_size: int
    report: IndexReport
    tell: OnProgress
    ledger: Ledger = field(default_factory=Ledger)
    warm: tuple[float, float] | None = None
    recorded: int = 0
    told: float = 0.0
    had_failures: bool = False
    metrics: RunMetrics | None = None
    verbose: bool = False

    def go(self, archive: Archive | None, work: Work, *, verbose: bool) -> None:
        """Do the work, and owe no prompt a text. The archive is made once there is a video to store."""
        self.verbose = verbose
        self.tell(Progress("starting"))
        verify_models(self.models)
        with ExitStack() as stack:
            if archive is not None:
                stack.enter_context(archive.held())
                self._prune(archive, work)
                archive.set_metadata(work.relabelled)
            try:
                with connected(verbose=verbose, wanted=self.config.resources, tell=self.tell) as resources:
                    self.metrics = RunMetrics(self.config.archive)
                    if self.config.compile and work.files:
                        check_compilers(resources)
                    videos = self._probe(work.files, resources)
                    if archive is None and videos:
                        archive = Archive.create_or_open(
                            self.config.archive, self.recipe, self.vector_size, reindex=self.config.reindex
                        )
                        stack.enter_context(archive.held())
                    if archive is not None:
                        archive.sweep()
                        self.had_failures = archive.count("failures") > 0
                        self._index(archive, videos, resources)
                        # Replay looks for every video's memory in every file.
                        archive.compact(at_least=MANY_FILES, rewrite=self._rewriting(archive))
                        self._describe(archive, resources)
                        archive.compact(at_least=MANY_FILES, rewrite=self._rewriting(archive))
                        archive.update_indexes(tell=lambda what: self.tell(Progress("building indexes")))
                        self._put_in_force(archive)
            finally:
                self.report.failures += self.ledger.standing()
                if archive is not None:
                    self._record(archive)

    def _put_in_force(self, archive: Archive) -> None:
        """Have readers see a new generation once it has all that the old one has."""
        self._record(archive)
        missing = archive.not_yet_here()
        if self.config.prune:
            missing = {identity: uri for identity, uri in missing.items() if not is_gone(uri)}
        self.report.videos_not_reindexed = len(missing)
        if not missing:
            self.report.switched = archive.put_in_force()

    def _rewriting(self, archive: Archive) -> Callable[[str], Rewrite]:
        def of_table(name: str) -> Rewrite:
            self.tell(Progress("tidying"))
            return rewriting_on_workers(archive.uri, name)

        return of_table

    def preview(self, archive: Archive | None, work: Work, *, verbose: bool) -> None:
        """Put into the report what ``go`` would do. Reads the headers of new files, and writes nothing."""
        self.verbose = verbose
        videos: list[Video] = []
        if work.files:
            with connected(verbose=verbose, wanted=self.config.resources, tell=self.tell) as resources:
                videos = self._probe(work.files, resources)
        committed = archive.completed_segments() if archive is not None else set()
        for video in videos:
            self._enter(video, committed)
        self.report.failures += self.ledger.standing()
        frames = [
            max(1, round((segment.end_s - segment.start_s) * self.recipe.fps))
            for segment in self.ledger.open_segments()
        ]
        slots = sum(min(self.recipe.bank_length, count) for count in frames)
        self.report.plan = Plan(
            videos=self.ledger.videos_total,
            segments=len(frames),
            video_s=self.ledger.video_s_total,
            frames=sum(frames),
            memory_slots=slots,
            storage_bytes=slots * slot_bytes(self.models, self.vector_size),
            texts=(len(frames) + self.ledger.videos_total) * len(self.config.all_prompts),
            pruned=tuple(sorted(work.vanished.values())),
        )

    def _prune(self, archive: Archive, work: Work) -> None:
        for identity in work.vanished:
            archive.remove_video(identity)
            self.report.videos_pruned += 1

    def _enter(self, video: Video, committed: set[str]) -> tuple[list[Segment], set[str]]:
        """Enter a video into the ledger; its segments, and which of them are stored."""
        recipe = self.recipe
        segments = segments_of(video, recipe.recipe_id, recipe.segment_s, recipe.fps)
        return segments, self.ledger.plan(video, segments, committed)

    def _record(self, archive: Archive) -> None:
        """Put what failed since the last time into the archive."""
        failures = self.ledger.failures
        if len(failures) > self.recorded:
            archive.record_failures(failures[self.recorded :])
            self.recorded = len(failures)
            self.had_failures = True

    def _probe(self, files: list[SourceFile], resources: Resources) -> list[Video]:
        if not files:
            return []
        began = time.monotonic()
        columns = [{name: getattr(file, name) for name in FILES.names} for file in files]
        rows = rows_table(columns, FILES)
        videos: list[Video] = []
        seen: set[str] = set()
        for block in received(probing(rows, self.config, resources, verbose=self.verbose)):
            for row in carried(block) if block is not None else []:
                self.ledger.failed(row)
                if row.video is not None:
                    videos.append(row.video)
                    seen.add(row.video.uri)
                elif row.failure is not None:
                    seen.add(row.failure.uri)
            self.tell(
                Progress(
                    "probing",
                    videos_done=len(seen),
                    videos_total=len(files),
                    failures=len(self.ledger.standing()),
                    elapsed_s=time.monotonic() - began,
                )
            )
        for file in files:
            if file.uri not in seen:
                reason = "the worker that probed it failed or died: run again to retry, with -v to see why"
                lost = Failure(
                    video_id(file.uri), None, file.uri, "probe", "worker_lost", reason, file.fingerprint
                )
                self.ledger.failed(Carried(None, None, lost))
        return sorted(videos, key=lambda video: video.uri)

    def _index(self, archive: Archive, videos: list[Video], resources: Resources) -> None:
        """Index, and try again, after a pause, what failed for a reason that may pass."""
        committed = archive.completed_segments() if videos else set()
        to_plan = []
        for video in videos:
            segments, stored = self._enter(video, committed)
            self.report.segments_resumed += len(stored)
            if len(stored) < len(segments):
                to_plan.append((video, stored))
        self._commit(archive, [])
        began = time.monotonic()
        together = segments_a_block(
            self.ledger.segments_total - self.ledger.segments_done, self.config, resources
        )
        try:
            for pause_s in (*RETRY_PAUSES_S, None):
                if to_plan:
                    self._pass(archive, to_plan, resources, began, together)
                # Again one by one: what took a worker down shall take no other segment with it.
                together = 1
                if pause_s is None or not (to_plan := self.ledger.reopen()):
                    break
                self._wait(pause_s, began)
        finally:
            self.report.indexing_s = time.monotonic() - began

    def _wait(self, pause_s: float, began: float) -> None:
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            self._tell("waiting", began)
            time.sleep(min(0.5, left_s))

    def _pass(
        self,
        archive: Archive,
        to_plan: list[tuple[Video, set[str]]],
        resources: Resources,
        began: float,
        together: int,
    ) -> None:
        """Index each video but for its segments of the given ids, ``together`` segments in a block."""
        rows = [Carried(video, None, None).columns() | {"done": sorted(done)} for video, done in to_plan]
        last_commit = time.monotonic()
        commits = 0
        waiting: list[_Written] = []
        dataset = indexing(
            rows_table(rows, TO_PLAN),
            self.config,
            self.recipe,
            archive,
            resources,
            together,
            verbose=self.verbose,
        )
        try:
            for block in received(dataset):
                if block is not None:
                    self._take(block, waiting)
                if time.monotonic() - last_commit >= COMMIT_EVERY_S:
                    self._commit(archive, waiting)
                    commits += 1
                    if commits % _COMMITS_A_LOOK == 0:
                        archive.compact(at_least=TOO_MANY_FILES, rewrite=self._rewriting(archive))
                    last_commit = time.monotonic()
                # Of a million segments some come in the same instant, and all failures are counted for each saying.
                if time.monotonic() - self.told >= _TELL_EVERY_S:
                    self._tell("indexing", began)
            self._commit(archive, waiting)
            self.ledger.lose_open(
                "the worker that held it failed or died: run again to retry, with -v to see why"
            )
        finally:
            # Also on Ctrl-C and when the cluster fails: what is written need not be made again.
            self._commit(archive, waiting)
            self._tell("indexing", began)

    def _take(self, block: pa.Table, waiting: list[_Written]) -> None:
        for index, row in enumerate(carried(block)):
            if row.failure is not None or row.segment is None:
                self.ledger.failed(row)
                continue
            receipt = Receipt(**block["receipt"][index].as_py())
            problem = block["problem"][index].as_py()
            waiting.append(_Written(receipt, row, cut=problem is not None))
            if problem is not None:
                end_s = receipt.segment_rows()["end_s"][0].as_py()
                kind = "truncated" if end_s < row.segment.end_s else "damaged"
                self.ledger.noted(row.failed("decode", kind, problem))

    def _commit(self, archive: Archive, waiting: list[_Written]) -> None:
        """Commit what is waiting and record the videos that are finished by it."""
        # Failures first: a segment that was cut short must not be stored without its note by a kill.
        self._record(archive)
        settled = []
        if waiting:
            outcome = archive.commit(written.receipt for written in waiting)
            self.report.memories += outcome.memories
            self.report.annotations += outcome.annotations
            for written in waiting:
                if self.had_failures:
                    settled += written.settled()
                if written.row.segment is not None and self.ledger.stored(written.row.segment):
                    segment = written.receipt.segment_rows().to_pylist()[0]
                    self.report.segments_indexed += 1
                    self.report.frames += segment["frame_count"]
                    self.report.video_s += segment["end_s"] - segment["start_s"]
            waiting.clear()
        if finished := self.ledger.take_finished():
            # All at once: a look at the store for each of a thousand short videos would take longer than they do.
            kept = {video.video_id: segment_ids for video, segment_ids in finished}
            archive.replace_videos(kept)
            if self.had_failures:
                archive.clear_stale_failures(kept)
            now = datetime.now(UTC)
            rows = []
            for video, _ in finished:
                settled += [failure_id(video.video_id, None, stage) for stage in _VIDEO_STAGES]
                rows.append(vars(video) | {"recipe_id": self.recipe.recipe_id, "indexed_at": now})
            archive.put_videos(pa.Table.from_pylist(rows, schema=VIDEOS))
            self.report.videos_indexed += len(rows)
        if self.had_failures:
            archive.clear_failures(settled)

    def _describe(self, archive: Archive, resources: Resources) -> None:
        """Put the prompts to the memory of whole videos, and new prompts to segments stored before."""
        work = missing_annotations(archive, self.config.all_prompts, self.recipe)
        if work:
            describing = Describing(
                archive, self.config.all_prompts, self.ledger, self.tell, self.had_failures
            )
            try:
                dataset = replaying(work, self.config, archive, resources, verbose=self.verbose)
                describing.go(dataset, of=work)
            finally:
                self.report.annotations += describing.texts

    def _tell(self, stage: str, began: float) -> None:
        ledger = self.ledger
        self.told = time.monotonic()
        elapsed_s = self.told - began
        if self.warm is None and ledger.video_s_done:
            self.warm = (elapsed_s, ledger.video_s_done)
        warm_s, warm_video_s = self.warm or (0.0, 0.0)
        standing = ledger.standing()
        progress = Progress(
            stage,
            videos_done=ledger.videos_done,
            videos_total=ledger.videos_total,
            segments_done=ledger.segments_done,
            segments_total=ledger.segments_total,
            video_s_done=ledger.video_s_done,
            video_s_total=ledger.video_s_total,
            failures=len(standing),
            elapsed_s=elapsed_s,
            warm_s=warm_s,
            warm_video_s=warm_video_s,
        )
        self.tell(progress)
        if self.metrics is not None:
            self.metrics.note(progress, self.report.frames, Counter(failure.kind for failure in standing))
