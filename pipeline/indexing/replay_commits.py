"""Commit replayed texts to the archive, every few seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray.data

from malmm.operators.write import annotation_rows, answers_at
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.starvation import RoomWatch
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.fail_fast import FailFast
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.model_loading import ModelLoading
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.ids import REPLAY, failure_id
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.rows import Carried, carried
from malmm.pipeline.schema.tables import ANNOTATIONS

__all__ = ["COMMIT_EVERY_S", "ReplayCommits"]

COMMIT_EVERY_S = 3.0
_STAGES = ("replay", "generate")


@dataclass
class ReplayCommits:
    """Receives the rows of ``malmm.pipeline.indexing.graph.replaying`` and commits their texts every few seconds.

    ``texts`` counts new texts. Failures go to the ledger. ``room`` says what the workers wait for, and ``loading`` what
    they load before the first text.
    """

    archive: Archive
    prompts: Sequence[Prompt]
    ledger: Ledger
    tell: OnProgress
    clear_failures: bool
    hosts: ModelHosts | None = None
    room: RoomWatch | None = None
    loading: ModelLoading | None = None
    texts: int = 0
    _alike: FailFast = field(default_factory=FailFast)
    _waiting: list[dict[str, Any]] = field(default_factory=list)

    def go(self, dataset: ray.data.Dataset, *, of: Sequence[pa.Table]) -> None:
        """Receive all rows, made ``of`` these blocks of ``TO_REPLAY``. If interrupted, commits what is ready.

        Raises WorkerError if row after row fails at the same line (``FailFast``).
        """
        began = last_commit = time.monotonic()
        done, total = 0, sum(block.num_rows for block in of)
        try:
            blocks = received(dataset)
            for block in blocks if self.hosts is None else self.hosts.watched(blocks):
                if block is not None:
                    done += block.num_rows
                    self._take(block)
                if time.monotonic() - last_commit >= COMMIT_EVERY_S:
                    self._commit()
                    last_commit = time.monotonic()
                self.tell(
                    Progress(
                        "describing",
                        videos_done=done,
                        videos_total=total,
                        failures=len(self.ledger.standing()),
                        elapsed_s=time.monotonic() - began,
                        note=self._note(done),
                    )
                )
        finally:
            self._commit()

    def _note(self, done: int) -> str:
        note = self.room.note(done) if self.room is not None else ""
        if note or done or self.hosts is None or self.loading is None:
            return note
        return self.loading.note(self.hosts)

    def _take(self, block: pa.Table) -> None:
        for index, row in enumerate(carried(block)):
            if row.failure is not None or row.video is None:
                self.ledger.failed(Carried(row.video, None, row.failure))
                self._alike.see(row.failure)
                continue
            self._alike.see(None)
            end_s = row.segment.end_s if row.segment else row.video.start_s + row.video.duration_s
            answers = answers_at(block, index, self.prompts)
            self._waiting += annotation_rows(row, answers, self.archive.recipe, mode=REPLAY, end_s=end_s)

    def _commit(self) -> None:
        if not self._waiting:
            return
        self.texts += self.archive.add_annotations(pa.Table.from_pylist(self._waiting, schema=ANNOTATIONS))
        if self.clear_failures:
            subjects = {(row["video_id"], row["segment_id"]) for row in self._waiting}
            self.archive.clear_failures(
                failure_id(video, segment, stage) for video, segment in subjects for stage in _STAGES
            )
        self._waiting.clear()
