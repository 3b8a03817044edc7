"""Commit receipts of segments to the archive, every few seconds, and record failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from malmm.pipeline.archive.compaction import Rewrite
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.fail_fast import FailFast
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.replay_commits import COMMIT_EVERY_S
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.ids import failure_id
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.rows import Carried, carried
from malmm.pipeline.schema.tables import VIDEOS

__all__ = ["SegmentCommits"]

# A table with this many small files is compacted in the middle of a run. Checked once in so many commits.
TOO_MANY_FILES, _COMMITS_A_LOOK = 1000, 100
_SEGMENT_STAGES = ("decode", "encode", "generate", "write", "index")
_VIDEO_STAGES = ("list", "probe", "plan", "index")


@dataclass(frozen=True)
class _Written:
    """A segment that can be committed; ``cut`` means that part of it could not be decoded."""

    receipt: Receipt
    row: Carried
    cut: bool

    def settled(self) -> list[str]:
        """Ids of the failures that this segment may have had before and that are resolved now."""
        stages = _SEGMENT_STAGES[1:] if self.cut else _SEGMENT_STAGES
        return [failure_id(self.receipt.video_id, self.receipt.segment_id, stage) for stage in stages]


@dataclass
class SegmentCommits:
    """Receives the rows of ``malmm.pipeline.indexing.graph.indexing``. Commits nothing while ``archive`` is None.

    ``rewriting`` returns what rewrites a table's files on workers.
    """

    ledger: Ledger
    report: IndexReport
    rewriting: Callable[[Archive, str], Rewrite]
    archive: Archive | None = None
    had_failures: bool = False
    _recorded: int = 0
    _waiting: list[_Written] = field(default_factory=list)
    _alike: FailFast = field(default_factory=FailFast)
    _last: float = field(default_factory=time.monotonic)
    _commits: int = 0

    def take(self, block: pa.Table) -> None:
        """Receive receipts and failures. Raises WorkerError if row after row fails at the same line (``FailFast``)."""
        for index, row in enumerate(carried(block)):
            if row.failure is not None or row.segment is None:
                self.ledger.failed(row)
                self._alike.see(row.failure)
                continue
            self._alike.see(None)
            receipt = Receipt(**block["receipt"][index].as_py())
            problem = block["problem"][index].as_py()
            self._waiting.append(_Written(receipt, row, cut=problem is not None))
            if problem is not None:
                end_s = receipt.segment_rows()["end_s"][0].as_py()
                kind = "truncated" if end_s < row.segment.end_s else "damaged"
                self.ledger.noted(row.failed("decode", kind, problem))

    def commit_if_due(self) -> None:
        """Commit if some seconds have passed since the last commit; now and then merge small files."""
        if time.monotonic() - self._last < COMMIT_EVERY_S:
            return
        self.commit()
        self._commits += 1
        if self.archive is not None and self._commits % _COMMITS_A_LOOK == 0:
            archive = self.archive
            archive.compact(at_least=TOO_MANY_FILES, rewrite=lambda name: self.rewriting(archive, name))
        self._last = time.monotonic()

    def commit(self) -> None:
        """Commit all waiting receipts, and record the videos that are now finished."""
        if self.archive is None:
            return
        # Failures first: a kill must not leave a truncated segment stored without its failure row.
        self.record_failures()
        settled = self._commit_segments(self.archive) if self._waiting else []
        settled += self._put_finished(self.archive)
        if self.had_failures:
            self.archive.clear_failures(settled)

    def record_failures(self) -> None:
        """Record failures since the last call in the archive."""
        failures = self.ledger.failures
        if self.archive is not None and len(failures) > self._recorded:
            self.archive.record_failures(failures[self._recorded :])
            self._recorded = len(failures)
            self.had_failures = True

    def _commit_segments(self, archive: Archive) -> list[str]:
        """Commit the waiting receipts. Returns ids of failures that are now resolved."""
        settled: list[str] = []
        outcome = archive.commit(written.receipt for written in self._waiting)
        self.report.memories += outcome.memories
        self.report.annotations += outcome.annotations
        for written in self._waiting:
            if self.had_failures:
                settled += written.settled()
            if written.row.segment is not None and self.ledger.stored(written.row.segment):
                segment = written.receipt.segment_rows().to_pylist()[0]
                self.report.segments_indexed += 1
                self.report.frames += segment["frame_count"]
                self.report.video_s += segment["end_s"] - segment["start_s"]
        self._waiting.clear()
        return settled

    def _put_finished(self, archive: Archive) -> list[str]:
        """Record finished videos in the archive. Returns ids of failures that are now resolved."""
        finished = self.ledger.take_finished()
        if not finished:
            return []
        # All at once: with a thousand short videos, one read of the store for each would take longer than indexing.
        kept = {video.video_id: segment_ids for video, segment_ids in finished}
        archive.replace_videos(kept)
        if self.had_failures:
            archive.clear_stale_failures(kept)
        stamp = {"recipe_id": archive.recipe.recipe_id, "indexed_at": datetime.now(UTC)}
        rows = [vars(video) | stamp for video, _ in finished]
        archive.put_videos(pa.Table.from_pylist(rows, schema=VIDEOS))
        self.report.videos_indexed += len(rows)
        return [failure_id(video.video_id, None, stage) for video, _ in finished for stage in _VIDEO_STAGES]
