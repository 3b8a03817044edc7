"""Store what a Ray Data pipeline of a program's own makes of videos, exactly once, as ``index`` does.

    with ArchiveSink(IndexConfig(sources=("videos",), archive="archive", model="demo"), stages="bright 1") as sink:
        frames = sink.change_frames(sink.decode(sink.segments()), only_bright)
        report = sink.store(sink.describe(frames))

The sink holds the archive's lease for the time of the block. Workers write fragments, and only the driver commits
(``malmm.pipeline.indexing.segment_commits``): a run that is killed anywhere leaves whole segments, and the next one
makes the others.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
from ray.data import Dataset, from_blocks

from malmm.model.checkpoints.resolve import open_models
from malmm.operators.change_frames import FramesFunction, change_frames
from malmm.operators.guard import guarded
from malmm.operators.plan_segments import plan_segments
from malmm.operators.probe import probe_files
from malmm.pipeline.archive.compaction import Rewrite
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.indexing.background_listing import BackgroundListing
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.cluster_plan import cluster_plan
from malmm.pipeline.indexing.graph import Wiring, decoding, describing, keep_to, writing
from malmm.pipeline.indexing.index import make_recipe, vectors_length
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.model_choice import chosen_model
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.indexing.segment_commits import SegmentCommits
from malmm.pipeline.indexing.served_engine import check_engine
from malmm.pipeline.indexing.worker_compaction import rewriting_on_workers
from malmm.pipeline.indexing.worker_indexing import build_on_workers
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.rows import (
    DECODED,
    FILES,
    PLANNED,
    PROBED,
    Carried,
    carried,
    rows_table,
)
from malmm.pipeline.schema.video_plans import plans_in

__all__ = ["ArchiveSink"]

_FILES_A_BLOCK = 4
_LIGHT_CPUS = 0.05
_MANY_FILES = 32
_ROWS: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
_LOST = "the worker that held it failed or died: run again to retry"
_NOT_HERE = ("dry_run", "prune", "reindex", "transcribe", "leave_out")


class ArchiveSink:
    """The videos of a configuration that an archive lacks, as a Ray Dataset, and what stores what is made of them.

    ``stages`` names the stages of your own, with a version: it is part of the archive's recipe, so that rows of other
    stages are never mixed with these. ``report`` counts what was stored and lists failures.
    """

    def __init__(self, config: IndexConfig, *, stages: str) -> None:
        """Check the arguments; nothing is opened before the block begins.

        Raises ConfigError without a name for ``stages``, and for settings that only ``index`` has.
        """
        if not stages.strip():
            raise ConfigError("stages: name your stages, with a version, such as 'no dark frames, 1'")
        given = [name for name in _NOT_HERE if getattr(config, name)]
        if given:
            raise ConfigError(f"a sink does not take {', '.join(given)}: `malmm.pipeline.index` does")
        self.config, self._stages = config, stages
        self.report = IndexReport(archive=config.archive, model=config.model, engine=config.engine)
        self._ledger = Ledger()
        self._commits = SegmentCommits(self._ledger, self.report, self._rewriting)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """List the sources, open or create the archive, and take its lease.

        Raises what ``malmm.pipeline.index`` raises, and RecipeMismatch for an archive of other stages.
        """
        with self._stack:
            config = self.config = chosen_model(self.config, lambda progress: None).config
            models = open_models(config.model, config.retrieval_model)
            self.recipe = replace(make_recipe(config, models), stages=self._stages)
            self.archive = Archive.create_or_open(config.archive, self.recipe, vectors_length(models))
            self.recipe = self.archive.recipe
            self._stack.enter_context(self.archive.held())
            self.archive.sweep()
            listing = self._stack.enter_context(BackgroundListing(config.sources).running())
            listing.wait(lambda: False)
            self._work = PendingWork(config, self.recipe, self.archive, listing)
            self._work.look()
            if self._work.files:
                check_engine(config.engine, models.checkpoint, self.recipe.decoding)
            self.report.videos_listed, self.report.videos_unchanged = self._work.listed, self._work.unchanged
            self._commits.archive = self.archive
            self._commits.had_failures = self.archive.count("failures") > 0
            self._plan = cluster_plan(config, self.recipe, models.checkpoint)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        """Commit what has come, give the lease back, and leave the cluster."""
        with self._stack:
            self._commits.commit()

    @property
    def todo(self) -> int:
        """How many listed videos are new, changed or unfinished. With 0 neither Ray nor a model is needed."""
        return len(self._work.files)

    def segments(self) -> Dataset:
        """What is to be done: a row a segment that is not stored, one a block. Reads the headers of all files first.

        Connects to a Ray cluster, or starts one, for the rest of the block. Raises WorkerError if it cannot.
        """
        resources = self._stack.enter_context(connected(self._plan))
        self._hosts = self._stack.enter_context(ModelHosts(resources, self._plan))
        self._wiring = Wiring(self.config, self.recipe, resources)
        files = [{name: getattr(file, name) for name in FILES.names} for file in self._work.files]
        blocks = [
            rows_table(files[at : at + _FILES_A_BLOCK], FILES) for at in range(0, len(files), _FILES_A_BLOCK)
        ]
        probed = self._lasting(blocks or [FILES.empty_table()]).map_batches(
            guarded("probe", PROBED, probe_files),
            fn_kwargs={
                "min_segment_s": self.config.min_segment_s,
                "segment_s": self.config.segment_s,
                "limit_s": self.config.decode_limit_s,
            },
            batch_size=1,
            num_cpus=_LIGHT_CPUS,
            **_ROWS,
        )
        rows = [row for block in received(probed) if block is not None for row in self._planned(block)]
        self._commits.record_failures()
        self._segments = len(rows)
        tables = [rows_table([row.columns()], PLANNED) for row in rows]
        planned = self._lasting(tables or [PLANNED.empty_table()])
        # A row is a segment, minutes of work, and must not wait for others.
        planned.context.target_max_block_size = 1
        return planned

    def decode(self, segments: Dataset) -> Dataset:
        """Segments to sampled frames at the model's size, on CPUs: rows of ``malmm.pipeline.schema.rows.DECODED``."""
        return decoding(segments, self._wiring)

    def change_frames(self, frames: Dataset, function: FramesFunction) -> Dataset:
        """A stage of your own on decoded frames. An exception in it is a failure of that segment.

        ``function`` takes frames, uint8 [T, H, W, 3], and times in seconds, float64 [T], and returns those that go on.
        """
        return frames.map_batches(
            guarded("decode", DECODED, change_frames),
            fn_kwargs={"function": function},
            batch_size=None,
            num_cpus=self._wiring.resources.decode_cpus,
            **_ROWS,
        )

    def describe(self, frames: Dataset) -> Dataset:
        """Frames to memory, retrieval vectors and texts, on GPUs if there are any: rows of ``ANSWERED``."""
        return describing(frames, self._wiring, self._hosts, expected=self._segments)

    def store(self, described: Dataset) -> IndexReport:
        """Write the rows of ``describe`` (a row of ``ANSWERED`` for each segment) and commit them every few seconds.

        Segments that never come back are failures, which the next run tries again. Texts about whole videos are not
        made here: `malmm annotate` makes them from what is stored. Raises WorkerError if row after row fails at the
        same line.
        """
        memories = self.archive.schema("memories")
        written = writing(described, self._wiring, self._hosts, self.archive.uri, memories)
        for block in self._hosts.watched(received(written)):
            if block is not None:
                self._commits.take(block)
            self._commits.commit_if_due()
        self._commits.commit()
        self._ledger.lose_open(_LOST)
        self._commits.commit()
        self.archive.compact(at_least=_MANY_FILES, rewrite=lambda name: self._rewriting(self.archive, name))
        self.archive.update_indexes(
            tell=lambda what: None,
            build_pieces=partial(build_on_workers, labels=self.config.cluster.labels),
        )
        self.report.failures = self._work.failures() + self._ledger.standing()
        return self.report

    def _rewriting(self, archive: Archive, table: str) -> Rewrite:
        return rewriting_on_workers(archive.uri, table, labels=self.config.cluster.labels)

    def _lasting(self, blocks: list[pa.Table]) -> Dataset:
        """A dataset that neither a lost block nor a long silence ends, since the driver knows what it planned."""
        dataset = from_blocks(blocks)
        dataset.context.max_errored_blocks = -1
        dataset.context.execution_no_progress_timeout_s = -1
        keep_to(self.config.cluster, dataset)
        return dataset

    def _planned(self, probed: pa.Table) -> list[Carried]:
        """Rows of the segments that are not stored. Plans of all, and failures of files, go to the ledger."""

        def note(plans: pa.Table, more: bool) -> None:
            for plan in plans_in(plans):
                if isinstance(plan, Failure):
                    self._ledger.failed(Carried(None, None, plan))
                else:
                    self.report.segments_resumed += self._ledger.plan(plan)

        recipe = self.recipe
        done = np.array(sorted(self.archive.completed_segments()), "S24")
        return carried(
            plan_segments(
                probed,
                recipe_id=recipe.recipe_id,
                segment_s=recipe.segment_s,
                fps=recipe.fps,
                done=done,
                note=note,
            )
        )
