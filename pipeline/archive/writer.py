"""The archive that a run writes: creation, commits that happen once, and clearing up after a crash.

What makes a rerun exact: a segment is done when its row is in ``segments`` (``commits``). Rows of segments that are not
done are orphans, which readers of ``memories`` see, so a run calls ``sweep`` before its first commit (``orphans``). One
writer at a time holds an archive (``held``); readers may come and go. Every change is fenced (``table_writer``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.commits import Commits, Committed, first_of_each
from malmm.pipeline.archive.compaction import Rewrite, compact_dataset, small_fragments
from malmm.pipeline.archive.creation import create_or_load, load_if_there
from malmm.pipeline.archive.failure_log import record_failures, stale_failures
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import drop_tables
from malmm.pipeline.archive.orphans import sweep_orphans
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.receipts import conform
from malmm.pipeline.archive.recipes_table import Generation, in_force, put_in_force
from malmm.pipeline.archive.search_indexes import update_indexes
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.receipts import Receipt
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.tables import ANNOTATIONS

__all__ = ["Archive", "Committed"]


class Archive(ArchiveReader):
    """An archive as its one writer sees it; whatever ``ArchiveReader`` reads, it reads too."""

    def __init__(self, uri: str, recipe: Recipe, root: str | None = None) -> None:
        super().__init__(uri, recipe, root)
        # Every commit makes a version that names all files, and no version before the last is read again.
        self.tables = TableReader(uri, layout_cache_bytes=16 << 20)
        self.changes = TableWriter(self.tables)
        self._commits = Commits(self.tables, self.changes)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the archive's one writer for a while. Raises ArchiveBusy when there is another, also from whatever is
        written after another took over, this one having been silent for too long."""
        with Lease.take(self._root, self._uri.removeprefix(self._root).strip("/")) as lease:
            self.changes.lease = lease
            try:
                yield
            finally:
                self.changes.lease = None
                self._commits.forget()

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
        place = self._uri.removeprefix(self._root).strip("/")
        at_root = TableWriter(TableReader(self._root))
        at_root.lease = self.changes.lease
        put_in_force(at_root, Generation(self._recipe, place, before.number + 1))
        # Killed here, the old tables stay: they cost storage and confuse nobody.
        drop_tables(before.address(self._root), below=bool(before.place))
        return True

    def commit(self, receipts: Iterable[Receipt]) -> Committed:
        """Make the receipts' segments done: memory and texts first, the ``segments`` rows last.

        Receipts of segments that are done already, and second receipts of one segment, are dropped. After
        an error the same receipts may be committed again. Raises ArchiveError.
        """
        return self._commits.commit(receipts)

    def put_videos(self, rows: pa.Table) -> None:
        """Record videos as done, replacing the row of a video that has one.

        The last step of a video: its segments are committed and, for a changed file, ``replace_videos``
        has been called.
        """
        self._commits.put_videos(rows)

    def set_metadata(self, labels: Mapping[str, str]) -> None:
        """Replace what manifests say of videos that are done: video_id to a JSON object."""
        rows = self.tables.rows("videos", is_in("video_id", labels))
        texts = [labels[identity] for identity in rows["video_id"].to_pylist()]
        place = rows.schema.get_field_index("metadata")
        self.put_videos(rows.set_column(place, rows.schema.field(place), pa.array(texts, pa.string())))

    def add_annotations(self, rows: pa.Table) -> int:
        """Add texts about stored memory, of segments or whole videos, and return how many were new.

        A text whose annotation_id is there stays as it is, so a rerun does not duplicate. Texts of whole
        videos belong after ``put_videos``: ``sweep`` deletes them while the video is not done.
        """
        rows = conform(rows, ANNOTATIONS, "annotations", self._uri)
        rows = first_of_each(rows, "annotation_id")
        there = self.tables.ids(
            "annotations", "annotation_id", is_in("annotation_id", rows["annotation_id"].to_pylist())
        )
        value_set = pa.array(sorted(there), pa.string())
        new = rows.filter(pc.invert(pc.is_in(rows["annotation_id"], value_set=value_set)))
        self.changes.append("annotations", new)
        return new.num_rows

    def sweep(self) -> dict[str, int]:
        """Delete what a killed run left and return the rows deleted by table.

        Orphans are memory and texts of segments that are not done, and texts of whole videos that are not
        done. Reads only id columns. Not while receipts are being committed by another process. While the archive is
        ``held``, memory that workers wrote and nobody committed goes too: receipts of before cannot be committed then.
        """
        return sweep_orphans(self.tables, self.changes)

    def replace_videos(self, kept: Mapping[str, Iterable[str]]) -> dict[str, int]:
        """Delete the old rows of changed videos, once their new segments are committed; rows deleted by table.

        ``kept`` has the segments that stay, by video. Every other segment of these videos goes, with its memory and
        texts, and with any of them the texts about the whole video, which described the old content. At most one look
        at the store, however many videos.
        """
        return self._commits.replace_videos(kept)

    def remove_video(self, video_id: str) -> dict[str, int]:
        """Forget a video: its segments, memory, texts, failures and its row; rows deleted by table.

        The row goes last: killed before, the video is still there to be removed.
        """
        self._commits.forget()
        return {
            name: self.changes.delete(name, "video_id", [video_id])
            for name in ("segments", "memories", "annotations", "failures", "videos")
        }

    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Record attempts that failed. A failure seen before keeps its first time and counts up."""
        record_failures(self.tables, self.changes, failures)

    def clear_failures(self, failure_ids: Iterable[str]) -> int:
        """Forget failures of what has been done since, by their ids; gives how many there were."""
        return self.changes.delete("failures", "failure_id", failure_ids)

    def clear_stale_failures(self, kept: Mapping[str, Iterable[str]]) -> int:
        """Forget videos' failures of other segments than these, by video: their file or plan was another then."""
        return self.clear_failures(stale_failures(self.tables, kept))

    def update_indexes(
        self, *, at_once: bool = False, tell: Callable[[str], None] = lambda what: None
    ) -> list[str]:
        """Make the indexes that the archive is large enough for and bring those up to date that lag; what was done."""
        lease = self.changes.lease
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
            with self.changes.changing(name, "compact") as dataset:
                if small_fragments(dataset) >= at_least:
                    done[name] = compact_dataset(dataset, keep_versions, rewrite(name) if rewrite else None)
        return done
