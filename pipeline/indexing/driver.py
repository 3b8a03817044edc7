"""The driver of a run that has work: prepare the archive, index, then compact, describe whole videos, update indexes.

It may be killed at any moment and run again: every decision depends only on the sources and on what is committed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial

from malmm.model.checkpoints.resolve import Models
from malmm.model.checkpoints.verification_record import verify_once
from malmm.pipeline.archive.compaction import Rewrite
from malmm.pipeline.archive.creation import address_of_rows
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.cluster.starvation import RoomWatch
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.cluster_plan import cluster_plan, frame_flop
from malmm.pipeline.indexing.compiler_check import check_compilers
from malmm.pipeline.indexing.estimate import estimated
from malmm.pipeline.indexing.graph import LIGHT_STAGES, Wiring, replaying, segments_a_block, surveying
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.metrics import RunMetrics
from malmm.pipeline.indexing.missing_annotations import missing_annotations
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.model_loading import ModelLoading, loaded_before_s
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.replay_commits import ReplayCommits
from malmm.pipeline.indexing.run_actor import RunActor
from malmm.pipeline.indexing.run_loop import RunLoop, Survey, committed_ids
from malmm.pipeline.indexing.run_progress import RunProgress
from malmm.pipeline.indexing.run_reports import IndexReport, Plan
from malmm.pipeline.indexing.segment_commits import SegmentCommits
from malmm.pipeline.indexing.served_engine import check_engine
from malmm.pipeline.indexing.worker_compaction import rewriting_on_workers
from malmm.pipeline.indexing.worker_indexing import build_on_workers
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.tables import memories_schema
from malmm.pipeline.sources.left_out import read_left_out
from malmm.pipeline.sources.listing import which_are_gone

__all__ = ["Run"]

# A table with this many small files is compacted at the end of a run.
MANY_FILES = 32


@dataclass
class Run:
    """The driver's side of one run. ``vanished`` are videos to delete from the archive, id to URI."""

    config: IndexConfig
    recipe: Recipe
    models: Models
    vector_size: int
    report: IndexReport
    tell: OnProgress
    vanished: dict[str, str] = field(default_factory=dict)
    verbose: bool = False

    def __post_init__(self) -> None:
        self._plan = cluster_plan(self.config, self.recipe, self.models.checkpoint)
        self.ledger = Ledger()
        self.progress = RunProgress(self.tell, self.ledger, self.report)
        self.commits = SegmentCommits(self.ledger, self.report, self._rewriting)

    def go(self, archive: Archive | None, work: PendingWork) -> None:
        """Do the work and fill in missing annotations. Creates the archive once there is a video to store."""
        self.tell(Progress("starting"))
        verify_once(self.models)
        check_engine(self.config.engine, self.models.checkpoint, self.recipe.decoding)
        before_s = loaded_before_s(read_runs(self.config.archive), "index") if archive is not None else None
        loading = ModelLoading(self.models.checkpoint.half_bytes, before_s)
        with ExitStack() as stack:
            if archive is not None:
                stack.enter_context(archive.held())
                self._prune(archive)
                if work.is_known:
                    archive.set_metadata(work.relabelled)
            try:
                with (
                    self._connected() as resources,
                    ModelHosts(resources, self._plan) as hosts,
                ):
                    self.report.encoders, self.report.gpus = hosts.encoders, hosts.gpus
                    self.progress.metrics = RunMetrics(self.config.archive)
                    self.progress.room = RoomWatch(resources, LIGHT_STAGES)
                    self.progress.loading = partial(loading.note, hosts)
                    if self.config.compile and work.files:
                        check_compilers(resources, self.config.cluster.labels)
                    if archive is not None:
                        self._begin(archive)
                    if work.files:
                        self._index(work, resources, hosts, stack)
                    if self.commits.archive is not None:
                        self._finish(self.commits.archive, work, hosts)
            finally:
                self.commits.record_failures()

    def preview(self, archive: Archive | None, work: PendingWork) -> None:
        """Fill ``report.plan`` with what ``go`` would do. Reads the headers of new files and writes nothing."""
        # Loads torch, which a run does without.
        from malmm.model.footprint import slot_bytes

        encoders, on_gpus = 0, False
        if work.files:
            with self._connected() as resources:
                encoders, on_gpus = resources.encode_workers, resources.encode_gpus > 0
                self.progress.room = RoomWatch(resources, LIGHT_STAGES)
                self._survey(archive, work, resources)
        frames = [
            max(1, round((segment.end_s - segment.start_s) * self.recipe.fps))
            for segment in self.ledger.open_segments()
        ]
        slots = sum(min(self.recipe.bank_length, count) for count in frames)
        flop = frame_flop(self.models.checkpoint)
        # Other options may be faster or slower.
        runs = [] if archive is None or self.config.reindex else read_runs(self.config.archive)
        time = estimated(sum(frames), flop, encoders=encoders, on_gpus=on_gpus, runs=runs)
        self.report.plan = Plan(
            videos=self.ledger.videos_total,
            segments=len(frames),
            video_s=self.ledger.video_s_total,
            frames=sum(frames),
            memory_slots=slots,
            storage_bytes=slots * slot_bytes(self.models, self.vector_size, tokens_as=self.recipe.tokens),
            texts=(len(frames) + self.ledger.videos_total) * len(self.config.all_prompts),
            pruned=tuple(sorted(self.vanished.values())),
            bytes_read=sum(file.size_bytes for file in work.files),
            hours=time.hours,
            gpu_hours=time.gpu_hours,
            basis=time.basis,
        )

    def _connected(self) -> AbstractContextManager[Resources]:
        return connected(self._plan, verbose=self.verbose, tell=self.tell)

    def _survey(self, archive: Archive | None, work: PendingWork, resources: Resources) -> None:
        """Plan all files without indexing any."""
        actor = RunActor()
        survey = Survey(work, self.ledger, actor, on_video=lambda: None)
        self.progress.begin()
        queue, positions = survey.begin(admitted=True)
        wiring = Wiring(self.config, self.recipe, resources, verbose=self.verbose)
        try:
            for _ in received(surveying(wiring, queue, positions, committed_ids(archive))):
                survey.step()
                self.progress.survey(survey.files_done, len(work.files), so_far=False)
            survey.step()
            survey.lose_unplanned()
        finally:
            survey.end()
            actor.end()

    def _index(self, work: PendingWork, resources: Resources, hosts: ModelHosts, stack: ExitStack) -> None:
        """Index. Creates the archive, if there is none, when the first video is planned."""

        def open_archive() -> Archive:
            made = Archive.create_or_open(
                self.config.archive, self.recipe, self.vector_size, reindex=self.config.reindex
            )
            stack.enter_context(made.held())
            self._begin(made)
            return made

        archive = self.commits.archive
        place = (
            archive.uri
            if archive is not None
            else address_of_rows(self.config.archive, self.recipe, reindex=self.config.reindex)
        )
        together = segments_a_block(work.segments_at_least, self.config, resources)
        wiring = Wiring(self.config, self.recipe, resources, together, self.verbose)
        memories = (
            archive.schema("memories")
            if archive is not None
            else memories_schema(self.vector_size, self.recipe.token_layers)
        )
        RunLoop(
            wiring, hosts, work, self.ledger, self.commits, self.progress, place, memories, open_archive
        ).go()

    def _begin(self, archive: Archive) -> None:
        """Prepare an archive that is held for the first commit: sweep orphans."""
        archive.sweep()
        self.commits.archive = archive
        self.commits.had_failures = archive.count("failures") > 0

    def _finish(self, archive: Archive, work: PendingWork, hosts: ModelHosts) -> None:
        """After all segments: update metadata, compact, add texts of whole videos and new prompts, update indexes."""
        archive.set_metadata(work.relabelled)
        # Compact before replay, which looks for every video's memory in every file.
        self._compact(archive)
        self._describe(archive, hosts)
        self._compact(archive)
        archive.update_indexes(
            tell=lambda what: self.tell(Progress("building indexes")),
            build_pieces=partial(build_on_workers, labels=self.config.cluster.labels, tell=self.tell),
        )
        self._put_in_force(archive)

    def _compact(self, archive: Archive) -> None:
        archive.compact(at_least=MANY_FILES, rewrite=lambda name: self._rewriting(archive, name))

    def _rewriting(self, archive: Archive, table: str) -> Rewrite:
        self.tell(Progress("tidying"))
        return rewriting_on_workers(archive.uri, table, labels=self.config.cluster.labels, tell=self.tell)

    def _prune(self, archive: Archive) -> None:
        for identity in self.vanished:
            archive.remove_video(identity)
            self.report.videos_pruned += 1

    def _describe(self, archive: Archive, hosts: ModelHosts) -> None:
        """Answer the prompts for whole videos, and new prompts for segments stored before."""
        work = missing_annotations(archive, self.config.all_prompts, self.recipe)
        if work:
            replay = ReplayCommits(
                archive,
                self.config.all_prompts,
                self.ledger,
                self.tell,
                self.commits.had_failures,
                hosts,
                self.progress.room,
            )
            try:
                dataset = replaying(work, self.config, archive, hosts, verbose=self.verbose)
                replay.go(dataset, of=work)
            finally:
                self.report.annotations += replay.texts

    def _put_in_force(self, archive: Archive) -> None:
        """Make readers see a new generation once it has all videos of the old one."""
        self.commits.record_failures()
        missing = archive.not_yet_here()
        if self.config.prune:
            gone = which_are_gone(missing)
            left_out = read_left_out(self.config.leave_out).whole if self.config.leave_out else ()
            missing = {
                video: uri for video, uri in missing.items() if video not in gone and uri not in left_out
            }
        self.report.videos_not_reindexed = len(missing)
        if not missing:
            self.report.switched = archive.put_in_force()
