"""Commits of segments and videos, exactly once.

A segment is done when its row in ``segments`` is committed. Its memory and texts are committed before that row, so
``segments`` alone decides whether a segment is done.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from malmm.pipeline.archive.answer_columns import rows_to_store
from malmm.pipeline.archive.orphans import discard_orphans
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.receipts import conform
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.video_metadata import with_typed_metadata
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.tables import VIDEOS

__all__ = ["Commits", "Committed", "first_of_each"]


@dataclass(frozen=True)
class Committed:
    """Result of a commit: ids of segments committed, ids dropped as duplicates, and the numbers of rows added."""

    segment_ids: tuple[str, ...]
    dropped: tuple[str, ...]
    memories: int
    annotations: int


@dataclass
class _Stored:
    """Stored ids of videos, and of their segments by video; ``is_all`` if of every video in the archive."""

    is_all: bool
    segments: defaultdict[str, set[str]]
    videos: set[str]


class Commits:
    """Commits segments and videos through ``writer``. Caches the ids of what is stored while ``remembers`` is set."""

    def __init__(self, tables: TableReader, writer: TableWriter) -> None:
        self._tables = tables
        self._writer = writer
        self._unfinished: tuple[str, ...] = ()
        self._stored: _Stored | None = None
        self._is_unsure = False
        self.remembers = False

    def forget(self) -> None:
        """Drop the cache. Call it when another writer may have written."""
        self._stored = None

    def commit(self, receipts: Iterable[Receipt]) -> Committed:
        """As ``Archive.commit``."""
        given = list(receipts)
        self._settle()
        if self._unfinished:
            discard_orphans(self._tables, self._writer, self._unfinished)
            self._unfinished = ()
        fresh: dict[str, Receipt] = {}
        dropped = []
        with self._knowing(receipt.video_id for receipt in given) as stored:
            for receipt in given:
                done = stored.segments[receipt.video_id]
                if receipt.segment_id in done:
                    dropped.append(receipt.segment_id)
                else:
                    fresh[receipt.segment_id] = receipt
                    done.add(receipt.segment_id)
            if fresh:
                # If a commit raises, only `segments` can tell later whether it happened.
                self._unfinished = tuple(fresh)
                self._writer.append_fragments(
                    "memories", [text for receipt in fresh.values() for text in receipt.memories]
                )
                texts = [receipt.annotation_rows() for receipt in fresh.values()]
                self._writer.append("annotations", rows_to_store(self._writer, pa.Table.from_batches(texts)))
                rows = [receipt.segment_rows() for receipt in fresh.values()]
                self._writer.append("segments", pa.Table.from_batches(rows))
                self._unfinished = ()
        return Committed(
            segment_ids=tuple(fresh),
            dropped=tuple(dropped),
            memories=sum(receipt.memory_count for receipt in fresh.values()),
            annotations=sum(receipt.annotation_count for receipt in fresh.values()),
        )

    def put_videos(self, rows: pa.Table) -> None:
        """As ``Archive.put_videos``."""
        rows = first_of_each(conform(rows, VIDEOS, "videos", self._tables.uri), "video_id")
        ids = rows["video_id"].to_pylist()
        with self._knowing(ids) as stored:
            rows = with_typed_metadata(self._writer, rows)
            if stored.videos.isdisjoint(ids):
                self._writer.append("videos", rows)
            else:
                self._writer.upsert("videos", "video_id", rows)
            stored.videos.update(ids)

    def replace_videos(self, kept: Mapping[str, Iterable[str]]) -> dict[str, int]:
        """As ``Archive.replace_videos``."""
        with self._knowing(kept) as stored:
            old = {
                segment: video
                for video, stay in kept.items()
                for segment in stored.segments[video].difference(stay)
            }
            if not old:
                return {"segments": 0, "memories": 0, "annotations": 0}
            whole = self._writer.delete("annotations", "video_id", old.values(), "segment_id IS NULL")
            # `segments` first: killed after it, the rest are orphans and the next sweep finds them.
            segments = self._writer.delete("segments", "segment_id", old)
            memories = self._writer.delete("memories", "segment_id", old)
            annotations = self._writer.delete("annotations", "segment_id", old)
            for segment, video in old.items():
                stored.segments[video].remove(segment)
        return {"segments": segments, "memories": memories, "annotations": annotations + whole}

    @contextmanager
    def _knowing(self, video_ids: Iterable[str]) -> Iterator[_Stored]:
        """Yield the stored ids of these videos. The block updates them as it changes the tables.

        While ``remembers`` is set nobody else writes, so the ids are read once and cached: reading them at each commit
        would take longer as the archive grows. After an error they are read again, since a write that raised may have
        happened.
        """
        self._settle()
        stored = self._stored or self._look(video_ids)
        self._stored, self._is_unsure = None, True
        yield stored
        self._is_unsure = False
        if stored.is_all:
            self._stored = stored

    def _settle(self) -> None:
        """After an error, make the store refuse commits that may still be on their way to it."""
        if self._is_unsure:
            for name in ("memories", "annotations", "segments", "videos"):
                self._writer.refuse_earlier_commits(name)
            self._is_unsure = False

    def _look(self, video_ids: Iterable[str]) -> _Stored:
        filters: Iterable[str] | None = list(is_in("video_id", video_ids))
        is_all = self.remembers and bool(filters)
        if is_all:
            filters = None
        stored = _Stored(is_all, defaultdict(set), self._tables.ids("videos", "video_id", filters))
        for batch in self._tables.batches("segments", ["segment_id", "video_id"], filters):
            for segment, video in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                stored.segments[video].add(segment)
        return stored


def first_of_each(rows: pa.Table, key: str) -> pa.Table:
    """Drop rows whose key repeats an earlier row's."""
    numbered = rows.select([key]).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    return rows.take(numbered.group_by(key).aggregate([("row", "min")])["row_min"].combine_chunks().sort())
