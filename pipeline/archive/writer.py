"""Write access to an archive: creation, exactly-once commits, and sweeping after a crash.

A segment is done when its row is in ``segments`` (``commits``), which makes a rerun exact. Rows of segments that are
not done are orphans. Readers of ``memories`` would see them, so a run calls ``sweep`` before its first commit
(``orphans``). One writer at a time holds an archive (``held``), beside any number of readers. Every change is fenced
(``table_writer``): a change outside of a ``held`` block takes the lease for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from typing import Concatenate, ParamSpec, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.answer_columns import rows_to_store
from malmm.pipeline.archive.commits import Commits, Committed, first_of_each
from malmm.pipeline.archive.compaction import Rewrite, compact_dataset, small_fragments
from malmm.pipeline.archive.creation import create_or_load, load_if_there
from malmm.pipeline.archive.failure_log import record_failures, stale_failures
from malmm.pipeline.archive.given_texts import Added, add_given, replace_spans, replace_tracks
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import drop_tables
from malmm.pipeline.archive.orphans import sweep_orphans
from malmm.pipeline.archive.passes import Pass, finish
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.receipts import conform
from malmm.pipeline.archive.recipes_table import Generation, in_force, put_in_force, refuse_older_releases
from malmm.pipeline.archive.search_indexes import update_indexes
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.vector_index import BuildPieces
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.tables import ANNOTATIONS, MOMENT, VIDEOS

__all__ = ["Archive", "Committed"]

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def _under_lease(
    change: Callable[Concatenate[Archive, _Given], _Made],
) -> Callable[Concatenate[Archive, _Given], _Made]:
    """A method that changes tables: with the lease of the block that holds the archive, or with one of its own."""

    @wraps(change)
    def changing(archive: Archive, /, *args: _Given.args, **options: _Given.kwargs) -> _Made:
        if archive.changes.lease is not None:
            return change(archive, *args, **options)
        with archive._leased():
            return change(archive, *args, **options)

    return changing


class Archive(ArchiveReader):
    """An archive that this process writes. Reads whatever ``ArchiveReader`` reads.

    Every change raises ArchiveBusy while another writer holds the archive. Make several changes in a ``held`` block:
    outside of one, each of them takes the lease and gives it back.
    """

    def __init__(self, uri: str, recipe: Recipe, root: str | None = None) -> None:
        super().__init__(uri, recipe, root)
        # A small cache: every commit makes a new version, and earlier versions are not read again.
        self.tables = TableReader(uri, layout_cache_bytes=16 << 20)
        self.changes = TableWriter(self.tables)
        self._commits = Commits(self.tables, self.changes)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the archive's lease in the block. Raises ArchiveBusy if another writer holds it.

        Changes in the block raise ArchiveBusy too, once another writer took over because this one was silent too long.
        """
        with self._leased():
            self._commits.remembers = True
            try:
                yield
            finally:
                self._commits.remembers = False
                self._commits.forget()

    @contextmanager
    def _leased(self) -> Iterator[None]:
        with Lease.take(self._root, self._uri.removeprefix(self._root).strip("/")) as lease:
            self.changes.lease = lease
            try:
                yield
            finally:
                self.changes.lease = None

    @classmethod
    def create_or_open(cls, uri: str, recipe: Recipe, vector_size: int, *, reindex: bool = False) -> Self:
        """Open the archive at a path or ``s3://`` URI; create it if there is none, or complete a killed creation.

        ``vector_size`` is the length of a retrieval vector. If the archive has another recipe: with ``reindex``, opens
        a new generation, which readers do not see before ``put_in_force``; without it, raises RecipeMismatch. Raises
        ArchiveError if the archive cannot be created or reached, or if the directory holds anything else.
        """
        return cls(*create_or_load(uri, recipe, vector_size, reindex=reindex))

    @classmethod
    def open_if_there(
        cls, uri: str, recipe: Recipe, vector_size: int, *, reindex: bool = False
    ) -> Self | None:
        """Open an existing archive; None if there is none but one could be created. Creates nothing.

        Raises as ``create_or_open`` does.
        """
        found = load_if_there(uri, recipe, vector_size, reindex=reindex)
        return None if found is None else cls(*found)

    @property
    def is_in_force(self) -> bool:
        """Whether readers see this generation."""
        now = in_force(self._root)
        return now is None or now.address(self._root) == self._uri

    def not_yet_here(self) -> dict[str, str]:
        """Videos of the generation in force that this generation has not yet stored or given up: id to URI."""
        before = in_force(self._root)
        if before is None or before.address(self._root) == self._uri:
            return {}
        old = ArchiveReader(before.address(self._root), before.recipe, self._root).videos()
        here = self.completed_videos().keys() | self.given_up().keys()
        pairs = zip(old["video_id"].to_pylist(), old["uri"].to_pylist(), strict=True)
        return {identity: uri for identity, uri in pairs if identity not in here}

    @_under_lease
    def put_in_force(self) -> bool:
        """Make readers see this generation, and delete the one before. Returns False if it was in force already."""
        before = in_force(self._root)
        if before is None or before.address(self._root) == self._uri:
            return False
        place = self._uri.removeprefix(self._root).strip("/")
        at_root = TableWriter(TableReader(self._root))
        at_root.lease = self.changes.lease
        put_in_force(at_root, Generation(self._recipe, place, before.number + 1))
        # If killed here, the old tables stay: they cost storage and do no other harm.
        drop_tables(before.address(self._root), below=bool(before.place))
        return True

    @_under_lease
    def refuse_older_releases(self) -> None:
        """Make releases that do not know of vectors made anew refuse the archive."""
        at_root = TableWriter(TableReader(self._root))
        at_root.lease = self.changes.lease
        refuse_older_releases(at_root, self._root)

    @_under_lease
    def commit(self, receipts: Iterable[Receipt]) -> Committed:
        """Commit the receipts' segments: memory and texts first, the ``segments`` rows last.

        Drops receipts of segments that are done already, and second receipts of a segment. After an error the same
        receipts may be committed again. Raises ArchiveError.
        """
        return self._commits.commit(receipts)

    @_under_lease
    def put_videos(self, rows: pa.Table) -> None:
        """Record videos as done, replacing the row of a video that has one.

        The last step of a video: commit its segments and, for a changed file, call ``replace_videos`` before.
        """
        self._commits.put_videos(rows)

    @_under_lease
    def set_metadata(self, labels: Mapping[str, str]) -> None:
        """Replace the metadata of completed videos: video_id to a JSON object."""
        rows = self.tables.rows("videos", is_in("video_id", labels), VIDEOS.names)
        texts = [labels[identity] for identity in rows["video_id"].to_pylist()]
        place = rows.schema.get_field_index("metadata")
        self.put_videos(rows.set_column(place, rows.schema.field(place), pa.array(texts, pa.string())))

    @_under_lease
    def add_annotations(self, rows: pa.Table) -> int:
        """Add texts about segments or whole videos, and return how many were new.

        A stored text with the same annotation_id stays as it is, so a rerun adds no duplicates. Timed records do not
        count, as they were taken out of an answer. Add texts of whole
        videos after ``put_videos``: ``sweep`` deletes those of videos that are not done.
        """
        rows = conform(rows, ANNOTATIONS, "annotations", self._uri)
        rows = first_of_each(rows, "annotation_id")
        there = self.tables.ids(
            "annotations", "annotation_id", is_in("annotation_id", rows["annotation_id"].to_pylist())
        )
        value_set = pa.array(sorted(there), pa.string())
        new = rows.filter(pc.invert(pc.is_in(rows["annotation_id"], value_set=value_set)))
        self.changes.append("annotations", rows_to_store(self.changes, new))
        return new.num_rows - pc.sum(pc.equal(new["task"], MOMENT), min_count=0).as_py()

    @_under_lease
    def put_given(self, rows: pa.Table) -> Added:
        """Add texts with spans of their own, and replace stored ones of the same id whose content differs.

        Only of videos that are done: ``sweep`` deletes those of others.
        """
        return add_given(self.tables, self.changes, self._given(rows))

    @_under_lease
    def replace_tracks(self, rows: pa.Table, gone: Iterable[tuple[str, str]]) -> Added:
        """As ``put_given``, and delete what else the tracks ``gone``, as (video_id, track_id), have stored."""
        return replace_tracks(self.tables, self.changes, self._given(rows), gone)

    @_under_lease
    def replace_spans(self, rows: pa.Table, gone: Iterable[tuple[str, str, float, float]]) -> Added:
        """As ``put_given``, and delete what else begins in ``gone``, as (video_id, track_id, start_s, end_s)."""
        return replace_spans(self.tables, self.changes, self._given(rows), gone)

    @_under_lease
    def finish_passes(self, done: Iterable[Pass]) -> None:
        """Record that steps are done with videos. Commit what they made before."""
        finish(self.changes, done)

    def _given(self, rows: pa.Table) -> pa.Table:
        return first_of_each(conform(rows, ANNOTATIONS, "annotations", self._uri), "annotation_id")

    @_under_lease
    def sweep(self) -> dict[str, int]:
        """Delete the orphans that a killed run left, and return the rows deleted by table.

        Orphans are memory and texts of segments that are not done, and texts of whole videos that are not done. Reads
        only id columns. Do not call it while another process commits receipts. While the archive is ``held``, it also
        deletes uncommitted memory files: receipts made before cannot be committed any more.
        """
        return sweep_orphans(self.tables, self.changes, files=self._commits.remembers)

    @_under_lease
    def replace_videos(self, kept: Mapping[str, Iterable[str]]) -> dict[str, int]:
        """Delete the old rows of changed videos, once their new segments are committed. Returns rows deleted by table.

        ``kept`` has the segments that stay, by video. Deletes every other segment of these videos with its memory and
        texts, and, if there are any, the texts about the whole video, which described the old content. Reads the store
        at most once, however many videos there are.
        """
        return self._commits.replace_videos(kept)

    @_under_lease
    def remove_video(self, video_id: str) -> dict[str, int]:
        """Delete a video: its segments, memory, texts, failures and its row. Returns rows deleted by table.

        Deletes the row last: if killed before, the video is still listed and can be removed again.
        """
        self._commits.forget()
        if self.tables.has("passes"):
            self.changes.delete("passes", "video_id", [video_id])
        return {
            name: self.changes.delete(name, "video_id", [video_id])
            for name in ("segments", "memories", "annotations", "failures", "videos")
        }

    @_under_lease
    def record_failures(self, failures: Iterable[Failure]) -> None:
        """Record failed attempts. A failure seen before keeps ``first_seen`` and adds to ``attempts``."""
        record_failures(self.tables, self.changes, failures)

    @_under_lease
    def clear_failures(self, failure_ids: Iterable[str]) -> int:
        """Delete failures by their ids, once they are resolved. Returns how many there were."""
        return self.changes.delete("failures", "failure_id", failure_ids)

    @_under_lease
    def clear_stale_failures(self, kept: Mapping[str, Iterable[str]]) -> int:
        """Delete failures of segments that their video no longer has: the file or its plan has changed since.

        ``kept`` maps each video to its current segments.
        """
        return self.clear_failures(stale_failures(self.tables, kept))

    @_under_lease
    def update_indexes(
        self,
        *,
        at_once: bool = False,
        tell: Callable[[str], None] = lambda what: None,
        build_pieces: BuildPieces | None = None,
    ) -> list[str]:
        """Create the indexes that the archive is large enough for and update those that lag. Returns their names.

        ``build_pieces`` builds the index of very many vectors on workers.
        """
        return update_indexes(self._uri, self.changes, at_once=at_once, tell=tell, build_pieces=build_pieces)

    @_under_lease
    def compact(
        self,
        keep_versions: timedelta = timedelta(hours=1),
        *,
        at_least: int = 1,
        rewrite: Callable[[str], Rewrite | None] | None = None,
    ) -> dict[str, tuple[int, int]]:
        """Merge small files and delete old versions. Returns (fragments before, after) by table.

        Only tables with at least ``at_least`` small files are touched. ``rewrite`` returns for a table what rewrites
        its files, for example on workers. A table handle that is older than ``keep_versions`` has to be opened again.
        """
        done = {}
        for name in ("memories", "annotations", "segments", "videos", "failures"):
            with self.changes.changing(name, "compact") as dataset:
                if small_fragments(dataset) >= at_least:
                    done[name] = compact_dataset(dataset, keep_versions, rewrite(name) if rewrite else None)
        return done
