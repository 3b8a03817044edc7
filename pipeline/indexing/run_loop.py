"""The driver's loop: hand listed files to workers, receive plans and receipts, commit, report progress, retry.

The first pass indexes all segments while files are still being listed. Later passes retry segments that failed for a
transient reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.file_queue import POSITIONS, FileQueueHandle, RemoteFileQueue, positions_for
from malmm.pipeline.indexing.graph import Wiring, indexing, planned_before, surveying
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.run_actor import RunActor
from malmm.pipeline.indexing.run_progress import RunProgress
from malmm.pipeline.indexing.segment_commits import SegmentCommits
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.rows import FILES, Carried, carried, rows_table
from malmm.pipeline.schema.video_plans import plans_in

__all__ = ["RunLoop", "Survey", "committed_ids"]

# Pauses before each retry of transient failures: a worker died, a store could not be reached, memory ran out.
RETRY_PAUSES_S = (2.0, 15.0)
_LOST = "the worker that {} it failed or died: run again to retry, with -v to see why"


def committed_ids(archive: ArchiveReader | None) -> np.ndarray:
    """Ids of an archive's completed segments, sorted, dtype S24, as ``plan_segments`` takes them."""
    return np.array(sorted(archive.completed_segments() if archive is not None else ()), "S24")


@dataclass
class Survey:
    """Tracks files from the listing to their plans, through a queue in the run's ``actor``. Calls ``on_video`` when the
    first video is planned."""

    work: PendingWork
    ledger: Ledger
    actor: RunActor
    on_video: Callable[[], None]
    stored: int = 0
    _queue: FileQueueHandle | None = None
    _offered: int = 0
    _closed: bool = False
    _any_video: bool = False
    _tables_taken: int = 0
    # By URI.
    _unplanned: dict[str, str] = field(default_factory=dict)

    def begin(self, *, admitted: bool) -> tuple[FileQueueHandle, int]:
        """Start with the files listed so far. Returns the queue and the number of its positions.

        With ``admitted``, planned segments may be written at once: the archive exists, or nothing will be written.
        """
        self.work.look()
        known = self.work.is_known
        positions = positions_for(len(self.work.files)) if known else POSITIONS
        self._queue = RemoteFileQueue(positions, self.actor)
        if admitted:
            self._any_video = True
            self._queue.admit()
        self.step()
        return self._queue, positions

    def step(self) -> None:
        """Hand over the files listed since the last call, and take the plans that have arrived.

        Raises RunLost if the queue's actor died.
        """
        if self._queue is not None:
            self._hand_over(self._queue)
            self._take_plans(self._queue)

    def end(self) -> None:
        """End the queue: a dataset that was left early may still wait for files."""
        if self._queue is not None:
            self._queue.end()
            self._queue = None

    def has_come(self, uri: str) -> None:
        """Mark a file as planned or failed."""
        self._unplanned.pop(uri, None)

    @property
    def files_done(self) -> int:
        """Number of files that are planned or failed."""
        return self._offered - len(self._unplanned)

    @property
    def files_unread(self) -> int:
        """Number of listed files that are neither planned nor failed yet."""
        return len(self.work.files) - self.files_done

    @property
    def so_far(self) -> bool:
        """Whether more files may be listed or planned, so that totals may still grow."""
        return not self._closed or bool(self._unplanned)

    def lose_unplanned(self) -> None:
        """Record files that never got a plan or a failure as failures."""
        for uri, fingerprint in self._unplanned.items():
            lost = Failure(
                video_id(uri), None, uri, "probe", "worker_lost", _LOST.format("probed"), fingerprint
            )
            self.ledger.failed(Carried(None, None, lost))
        self._unplanned.clear()

    def _hand_over(self, queue: FileQueueHandle) -> None:
        if self._closed:
            return
        self.work.look()
        is_last = self.work.is_known
        files = self.work.files[self._offered :]
        if files:
            rows = [{name: getattr(file, name) for name in FILES.names} for file in files]
            self._unplanned |= {file.uri: file.fingerprint for file in files}
            self._offered += len(files)
            queue.offer(rows_table(rows, FILES))
        if is_last:
            queue.close()
            self._closed = True

    def _take_plans(self, queue: FileQueueHandle) -> None:
        tables = queue.take(self._tables_taken)
        self._tables_taken += len(tables)
        for table in tables:
            for plan in plans_in(table):
                if isinstance(plan, Failure):
                    self.has_come(plan.uri)
                    self.ledger.failed(Carried(None, None, plan))
                    continue
                self.has_come(plan.video.uri)
                self.stored += self.ledger.plan(plan)
                if not self._any_video:
                    self._any_video = True
                    self.on_video()
                    queue.admit()


@dataclass
class RunLoop:
    """Indexes the pending work of a run. ``place`` is the address of the tables, ``memories`` the schema of that table;
    ``open_archive`` creates the tables once there is something to store."""

    wiring: Wiring
    hosts: ModelHosts
    work: PendingWork
    ledger: Ledger
    commits: SegmentCommits
    progress: RunProgress
    place: str
    memories: pa.Schema
    open_archive: Callable[[], Archive]

    def go(self) -> None:
        """Index, and retry after a pause what failed for a transient reason."""
        report = self.commits.report
        began, encoder_s = time.monotonic(), self.hosts.encoder_s
        self.progress.begin()
        try:
            self._first()
            for pause_s in RETRY_PAUSES_S:
                if not (rows := self.ledger.reopen()):
                    break
                self._wait(pause_s)
                self._again(rows)
        finally:
            report.indexing_s = time.monotonic() - began
            report.encoder_s = self.hosts.encoder_s - encoder_s
            report.loaded_s = self.hosts.loaded_s or 0.0
            # Nodes may have joined.
            report.encoders = max(report.encoders, self.hosts.encoders)
            report.gpus = max(report.gpus, self.hosts.gpus)

    def _first(self) -> None:
        """First pass: list, plan and index at the same time."""
        survey = Survey(self.work, self.ledger, self.hosts.run_actor, on_video=self._open)
        try:
            queue, positions = survey.begin(admitted=self.commits.archive is not None)
            self._tell(survey)
            planned = surveying(self.wiring, queue, positions, committed_ids(self.commits.archive))
            expected = self.work.segments_at_least
            dataset = indexing(planned, self.wiring, self.hosts, self.place, self.memories, expected=expected)
            for block in self.hosts.watched(received(dataset)):
                survey.step()
                if block is not None:
                    for row in carried(block):
                        if row.failure is not None and row.segment is None:
                            survey.has_come(row.failure.uri)
                    self.commits.take(block)
                self.commits.commit_if_due()
                if self.progress.is_due:
                    self.hosts.want(self.ledger.segments_total - self.ledger.segments_done)
                    self._tell(survey)
            survey.step()
            self.commits.commit()
            survey.lose_unplanned()
            self.ledger.lose_open(_LOST.format("held"))
        finally:
            survey.end()
            self.commits.report.segments_resumed = survey.stored
            # Also on Ctrl-C and when the cluster fails, so that what is written need not be made again.
            self.commits.commit()
            self._tell(survey)

    def _again(self, rows: list[Carried]) -> None:
        """Retry pass: one segment a block, so that a segment that kills its worker fails alone."""
        planned = planned_before(rows, use=self.wiring.config.cluster, verbose=self.wiring.verbose)
        alone = Wiring(
            self.wiring.config, self.wiring.recipe, self.wiring.resources, verbose=self.wiring.verbose
        )
        dataset = indexing(planned, alone, self.hosts, self.place, self.memories, expected=len(rows))
        try:
            for block in self.hosts.watched(received(dataset)):
                if block is not None:
                    self.commits.take(block)
                self.commits.commit_if_due()
                if self.progress.is_due:
                    self.progress.indexing()
            self.commits.commit()
            self.ledger.lose_open(_LOST.format("held"))
        finally:
            self.commits.commit()
            self.progress.indexing()

    def _open(self) -> None:
        if self.commits.archive is None:
            self.commits.archive = self.open_archive()

    def _tell(self, survey: Survey) -> None:
        if self.ledger.videos_total:
            self.progress.indexing(files_unread=survey.files_unread, so_far=survey.so_far)
        else:
            self.progress.survey(survey.files_done, len(self.work.files), so_far=not self.work.is_known)

    def _wait(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            self.progress.indexing("waiting")
            time.sleep(min(0.5, left_s))
