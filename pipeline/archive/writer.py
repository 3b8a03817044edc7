"""The archive that a run writes: creation, commits that happen once, and clearing up after a crash.

What makes a rerun exact: a segment is done when its row is in ``segments``, its memory and texts are
committed before that row, and nothing but ``segments`` is asked whether it is done. Rows of segments that
are not done are orphans, which readers of ``memories`` see, so a run calls ``sweep`` before its first commit.
One writer at a time holds an archive (``held``); readers may come and go.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import FragmentMetadata

from malmm.pipeline.archive.compaction import (
    Rewrite,
    compact_dataset,
    remove_files,
    small_fragments,
    unnamed_files,
)
from malmm.pipeline.archive.creation import create_or_load, load_if_there
from malmm.pipeline.archive.fragments import conform
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import drop_tables, lance_errors, table_uri
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.search_indexes import update_indexes
from malmm.pipeline.archive.versions import Generation, in_force, put_in_force
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.ids import failure_id
from malmm.pipeline.schema.receipts import Receipt
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.tables import ANNOTATIONS, FAILURES, VIDEOS

__all__ = ["Archive", "Committed"]


@dataclass(frozen=True)
class Committed:
    """What a commit did: the segments it made done, those it dropped as done before, and rows added."""

    segment_ids: tuple[str, ...]
    dropped: tuple[str, ...]
    memories: int
    annotations: int


@dataclass
class _Here:
    """Ids of what is in the tables, of some videos or of all: segments that are done, by video, and videos."""

    is_all: bool
    segments: defaultdict[str, set[str]]
    videos: set[str]


class Archive(ArchiveReader):
    """An archive as its one writer sees it; whatever ``ArchiveReader`` reads, it reads too."""

    # Every commit makes a version that names all files, and no version before the last is read again.
    _LAYOUT_CACHE_BYTES = 16 << 20

    def __init__(self, uri: str, recipe: Recipe, root: str | None = None) -> None:
        super().__init__(uri, recipe, root)
        self._unfinished: tuple[str, ...] = ()
        self._lease: Lease | None = None
        self._here: _Here | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the archive's one writer for a while. Raises ArchiveBusy when there is another, also from whatever is
        written after another took over, this one having been silent for too long."""
        with Lease.take(self._root) as self._lease:
            try:
                yield
            finally:
                self._lease = self._here = None

    @classmethod
    def create_or_open(cls, uri: str, recipe: Recipe, vector_size: int, *, reindex: bool = False) -> Self:
        """Open the archive at a path or ``s3://`` URI, making it if there is none.

        With ``reindex``, where the archive has another recipe, this is a new generation of it, which readers do not
        see before ``put_in_force``. ``vector_size`` is the length of a retrieval vector. A creation that was killed is
        completed. A directory that holds anything but an archive is refused. Raises RecipeMismatch when the archive
        was made with other options, and ArchiveError when it cannot be made or reached.
        """
        return cls(*create_or_load(uri, recipe, vector_size, reindex=reindex))

    @classmethod
    def open_if_there(
        cls, uri: str, recipe: Recipe, vector_size: int, *, reindex: bool = False
    ) -> Self | None:
        """Open an existing archive; None where there is none but one could be made, which this does not.

        Raises as ``create_or_open`` does.
        """
        found = load_if_there(uri, recipe, vector_size, reindex=reindex)
        return None if found is None else cls(*found)

    @property
    def is_in_force(self) -> bool:
        """Whether this generation is the one that readers see."""
        now = in_force(self._root)
        return now is None or now.address(self._root) == self._uri

    def not_yet_here(self) -> dict[str, str]:
        """Videos of the generation in force that this one has neither stored nor given up: id to URI."""
        before = in_force(self._root)
        if before is None or before.address(self._root) == self._uri:
            return {}
        old = ArchiveReader(before.address(self._root), before.recipe, self._root).videos()
        here = self.completed_videos().keys() | self.given_up().keys()
        pairs = zip(old["video_id"].to_pylist(), old["uri"].to_pylist(), strict=True)
        return {identity: uri for identity, uri in pairs if identity not in here}

    def put_in_force(self) -> bool:
        """Have readers see this generation from now on, and delete the one before; False when it was in force."""
        before = in_force(self._root)
        if before is None or before.address(self._root) == self._uri:
            return False
        if self._lease is not None:
            self._lease.check()
        put_in_force(self._root, Generation.beside(self._recipe, before))
        # Killed here, the old tables stay: they cost storage and confuse nobody.
        drop_tables(before.address(self._root), below=bool(before.place))
        return True

    def commit(self, receipts: Iterable[Receipt]) -> Committed:
        """Make the receipts' segments done: memory and texts first, the ``segments`` rows last.

        Receipts of segments that are done already, and second receipts of one segment, are dropped. After
        an error the same receipts may be committed again. Raises ArchiveError.
        """
        given = list(receipts)
        if self._unfinished:
            self._discard_unless_done(self._unfinished)
            self._unfinished = ()
        fresh: dict[str, Receipt] = {}
        dropped = []
        with self._knowing(receipt.video_id for receipt in given) as here:
            for receipt in given:
                done = here.segments[receipt.video_id]
                if receipt.segment_id in done:
                    dropped.append(receipt.segment_id)
                else:
                    fresh[receipt.segment_id] = receipt
                    done.add(receipt.segment_id)
            if fresh:
                # Whether a commit that raised has happened is unknown until the next look at `segments`.
                self._unfinished = tuple(fresh)
                self._append_fragments(
                    "memories", [text for receipt in fresh.values() for text in receipt.memories]
                )
                texts = [receipt.annotation_rows() for receipt in fresh.values()]
                self._append("annotations", pa.Table.from_batches(texts))
                rows = [receipt.segment_rows() for receipt in fresh.values()]
                self._append("segments", pa.Table.from_batches(rows))
                self._unfinished = ()
        return Committed(
            segment_ids=tuple(fresh),
            dropped=tuple(dropped),
            memories=sum(receipt.memory_count for receipt in fresh.values()),
            annotations=sum(receipt.annotation_count for receipt in fresh.values()),
        )

    def put_videos(self, rows: pa.Table) -> None:
        """Record videos as done, replacing the row of a video that has one.

        The last step of a video: its segments are committed and, for a changed file, ``replace_videos``
        has been called.
        """
        rows = _first_of_each(conform(rows, VIDEOS, "videos", self._uri), "video_id")
        ids = rows["video_id"].to_pylist()
        with self._knowing(ids) as here:
            if here.videos.isdisjoint(ids):
                self._append("videos", rows)
            else:
                self._upsert("videos", "video_id", rows)
            here.videos.update(ids)

    def set_metadata(self, labels: Mapping[str, str]) -> None:
        """Replace what manifests say of videos that are done: video_id to a JSON object."""
        rows = self._rows("videos", is_in("video_id", labels))
        texts = [labels[identity] for identity in rows["video_id"].to_pylist()]
        place = rows.schema.get_field_index("metadata")
        self.put_videos(rows.set_column(place, rows.schema.field(place), pa.array(texts, pa.string())))

    def add_annotations(self, rows: pa.Table) -> int:
        """Add texts about stored memory, of segments or whole videos, and return how many were new.

        A text whose annotation_id is there stays as it is, so a rerun does not duplicate. Texts of whole
        videos belong after ``put_videos``: ``sweep`` deletes them while the video is not done.
        """
        rows = conform(rows, ANNOTATIONS, "annotations", self._uri)
        rows = _first_of_each(rows, "annotation_id")
        there = self._ids(
            "annotations", "annotation_id", is_in("annotation_id", rows["annotation_id"].to_pylist())
        )
        value_set = pa.array(sorted(there), pa.string())
        new = rows.filter(pc.invert(pc.is_in(rows["annotation_id"], value_set=value_set)))
        self._append("annotations", new)
        return new.num_rows

    def sweep(self) -> dict[str, int]:
        """Delete what a killed run left and return the rows deleted by table.

        Orphans are memory and texts of segments that are not done, and texts of whole videos that are not
        done. Reads only id columns. Not while receipts are being committed by another process. While the archive is
        ``held``, memory that workers wrote and nobody committed goes too: receipts of before cannot be committed then.
        """
        done = self.completed_segments()
        deleted = {}
        for name in ("memories", "annotations"):
            deleted[name] = self._delete_in(name, "segment_id", self._ids(name, "segment_id") - done)
        whole = self._ids("annotations", "video_id", ["segment_id IS NULL"]) - set(self.completed_videos())
        deleted["annotations"] += self._delete_in("annotations", "video_id", whole, "segment_id IS NULL")
        self._remove_unnamed_files()
        return deleted

    def replace_videos(self, kept: Mapping[str, Iterable[str]]) -> dict[str, int]:
        """Delete the old rows of changed videos, once their new segments are committed; rows deleted by table.

        ``kept`` has the segments that stay, by video. Every other segment of these videos goes, with its memory and
        texts, and with any of them the texts about the whole video, which described the old content. At most one look
        at the store, however many videos.
        """
        with self._knowing(kept) as here:
            old = {
                segment: video
                for video, stay in kept.items()
                for segment in here.segments[video].difference(stay)
            }
            if not old:
                return {"segments": 0, "memories": 0, "annotations": 0}
            whole = self._delete_in("annotations", "video_id", old.values(), "segment_id IS NULL")
            # `segments` first: killed after it, the rest are orphans and the next sweep finds them.
            segments = self._delete_in("segments", "segment_id", old)
            memories = self._delete_in("memories", "segment_id", old)
            annotations = self._delete_in("annotations", "segment_id", old)
            for segment, video in old.items():
                here.segments[video].remove(segment)
        return {"segments": segments, "memories": memories, "annotations": annotations + whole}

    def remove_video(self, video_id: str) -> dict[str, int]:
        """Forget a video: its segments, memory, texts, failures and its row; rows deleted by table.

        The row goes last: killed before, the video is still there to be removed.
        """
        self._here = None
        return {
            name: self._delete_in(name, "video_id", [video_id])
            for name in ("segments", "memories", "annotations", "failures", "videos")
        }

    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Record attempts that failed. A failure seen before keeps its first time and counts up."""
        attempts: dict[str, list[Failure]] = {}
        for failure in failures:
            key = failure_id(failure.video_id, failure.segment_id, failure.stage)
            attempts.setdefault(key, []).append(failure)
        before = {
            row["failure_id"]: row
            for row in self._rows("failures", is_in("failure_id", attempts)).to_pylist()
        }
        now = datetime.now(UTC)
        rows = [
            {
                **vars(tries[-1]),
                "failure_id": key,
                "attempts": len(tries) + (before[key]["attempts"] if key in before else 0),
                "first_seen": before[key]["first_seen"] if key in before else now,
                "last_seen": now,
            }
            for key, tries in attempts.items()
        ]
        self._upsert("failures", "failure_id", pa.Table.from_pylist(rows, schema=FAILURES))

    def clear_failures(self, failure_ids: Iterable[str]) -> int:
        """Forget failures of what has been done since, by their ids; gives how many there were."""
        return self._delete_in("failures", "failure_id", failure_ids)

    def clear_stale_failures(self, kept: Mapping[str, Iterable[str]]) -> int:
        """Forget videos' failures of other segments than these, by video: their file or plan was another then."""
        keep = set().union(*kept.values())
        columns = ["failure_id", "segment_id"]
        rows = self._rows("failures", is_in("video_id", kept), columns).to_pylist()
        return self.clear_failures(
            row["failure_id"] for row in rows if row["segment_id"] and row["segment_id"] not in keep
        )

    def update_indexes(
        self, *, at_once: bool = False, tell: Callable[[str], None] = lambda what: None
    ) -> list[str]:
        """Make the indexes that the archive is large enough for and bring those up to date that lag; what was done."""
        lease = self._lease
        return update_indexes(
            self._uri, at_once=at_once, check=lease.check if lease else lambda: None, tell=tell
        )

    def compact(
        self,
        keep_versions: timedelta = timedelta(hours=1),
        *,
        at_least: int = 1,
        rewrite: Callable[[str], Rewrite | None] | None = None,
    ) -> dict[str, tuple[int, int]]:
        """Merge small files and forget old versions; fragments before and after by table.

        Only tables of ``at_least`` small files are touched. ``rewrite`` gives for a table what rewrites its files, on
        workers for instance. A reader that holds a table handle for longer than ``keep_versions`` has to open it anew.
        """
        done = {}
        for name in ("memories", "annotations", "segments", "videos", "failures"):
            dataset = self._dataset_to_write(name)
            if small_fragments(dataset) >= at_least:
                done[name] = compact_dataset(
                    dataset, self._uri, keep_versions, rewrite(name) if rewrite else None
                )
        return done

    @contextmanager
    def _knowing(self, video_ids: Iterable[str]) -> Iterator[_Here]:
        """What of these videos is in the tables, for the block to change as it changes them.

        Read once while the archive is ``held``, since nobody else writes then: looking at each commit would take longer
        the more there is. Read anew after an error: whether a write that raised has happened is unknown.
        """
        here = self._here or self._look(video_ids)
        self._here = None
        yield here
        if here.is_all:
            self._here = here

    def _look(self, video_ids: Iterable[str]) -> _Here:
        filters: Iterable[str] | None = list(is_in("video_id", video_ids))
        is_all = self._lease is not None and bool(filters)
        if is_all:
            # What another writer has begun must not come on top of what is read here.
            self._fence("segments")
            self._fence("videos")
            filters = None
        here = _Here(is_all, defaultdict(set), self._ids("videos", "video_id", filters))
        for batch in self._batches("segments", ["segment_id", "video_id"], filters):
            for segment, video in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                here.segments[video].add(segment)
        return here

    def _fence(self, name: str) -> None:
        """Have every commit to a table fail that was begun before: a writer who was taken for dead may have stopped in
        the middle of one, and go on with it. Restoring the latest version changes no row."""
        with lance_errors(self._uri, f"write table {name!r} of"):
            self._dataset_to_write(name).restore()

    def _dataset_to_write(self, name: str) -> lance.LanceDataset:
        # In this order: what is committed to a version that was the latest after another writer took over must fail.
        dataset = self._dataset(name)
        if self._lease is not None:
            self._lease.check()
        return dataset

    def _remove_unnamed_files(self) -> None:
        """Delete the memory that a killed run's workers wrote: megabytes a slot, which Lance keeps for a week."""
        if self._lease is None or not unnamed_files(self._dataset_to_write("memories"), self._uri):
            return
        self._fence("memories")
        names = unnamed_files(self._dataset("memories"), self._uri)
        # Found while nobody else wrote, they stay nobody's, however long it takes to delete them.
        self._lease.check()
        remove_files(table_uri(self._uri, "memories"), names)

    def _append_fragments(self, name: str, fragments: list[str]) -> None:
        if not fragments:
            return
        dataset = self._dataset_to_write(name)
        operation = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
        with lance_errors(self._uri, f"commit rows of table {name!r} to"):
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)

    def _append(self, name: str, rows: pa.Table) -> None:
        if not rows.num_rows:
            return
        with lance_errors(self._uri, f"commit rows of table {name!r} to"):
            # Of a thousand chunks of a row each Lance takes ten times as long as of one.
            lance.write_dataset(rows.combine_chunks(), self._dataset_to_write(name), mode="append")

    def _upsert(self, name: str, key: str, rows: pa.Table) -> None:
        # No rows would still make a version.
        if not rows.num_rows:
            return
        dataset = self._dataset_to_write(name)
        merge = dataset.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
        with lance_errors(self._uri, f"write table {name!r} of"):
            merge.execute(rows)

    def _delete_in(self, name: str, column: str, ids: Iterable[str], also: str | None = None) -> int:
        deleted = 0
        dataset = self._dataset_to_write(name)
        for part in is_in(column, ids):
            condition = part if also is None else f"{part} AND {also}"
            with lance_errors(self._uri, f"delete rows of table {name!r} of"):
                # A delete that finds nothing would still make a version of the table.
                if dataset.count_rows(filter=condition):
                    deleted += dataset.delete(condition)["num_deleted_rows"]
        return deleted

    def _discard_unless_done(self, segment_ids: Iterable[str]) -> None:
        orphans = set(segment_ids) - self.completed_among(segment_ids)
        for name in ("memories", "annotations"):
            self._delete_in(name, "segment_id", orphans)


def _first_of_each(rows: pa.Table, key: str) -> pa.Table:
    numbered = rows.select([key]).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    return rows.take(numbered.group_by(key).aggregate([("row", "min")])["row_min"].combine_chunks().sort())
