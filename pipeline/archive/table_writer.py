"""Changing an archive's tables, fenced: a writer that lost its lease can change none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata

from malmm.pipeline.archive.fencing import check_token, refuse_earlier_commits
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError

__all__ = ["TableWriter"]

# Without a lease, changes are tried again where another's come in between. With one there is no other.
_RETRIES = 10


class TableWriter:
    """Changes the tables that ``tables`` reads. ``lease`` is None while nobody holds the archive."""

    def __init__(self, tables: TableReader) -> None:
        self._tables = tables
        self.lease: Lease | None = None

    def dataset(self, name: str) -> lance.LanceDataset:
        """A table to build the next change on. Raises ArchiveBusy when another writer took over.

        The change has to be made to this handle and not be tried again on a later version: that is what the fence of a
        later writer refuses.
        """
        dataset = self._tables.dataset(name)
        if self.lease is not None:
            self.lease.check()
            check_token(dataset, self.lease.token, self.lease.archive_uri)
        return dataset

    def append_fragments(self, name: str, fragments: list[str]) -> None:
        """Commit fragments that workers wrote, given as JSON of their metadata."""
        if not fragments:
            return
        operation = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
        with self.changing(name, f"commit rows of table {name!r} to") as dataset:
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)

    def append(self, name: str, rows: pa.Table) -> None:
        """Write and commit rows."""
        if not rows.num_rows:
            return
        with self.changing(name, f"commit rows of table {name!r} to") as dataset:
            # Of a thousand chunks of a row each Lance takes ten times as long as of one.
            lance.write_dataset(rows.combine_chunks(), dataset, mode="append")

    def upsert(self, name: str, key: str, rows: pa.Table) -> None:
        """Write rows in the place of those with the same key, or as new ones."""
        # No rows would still make a version.
        if not rows.num_rows:
            return
        with self.changing(name, f"write table {name!r} of") as dataset:
            merge = dataset.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
            merge.conflict_retries(self._retries).execute(rows)

    def delete(self, name: str, column: str, ids: Iterable[str], also: str | None = None) -> int:
        """Delete the rows whose ``column`` is one of ``ids`` and that meet ``also``, and return how many."""
        deleted = 0
        for part in is_in(column, ids):
            condition = part if also is None else f"{part} AND {also}"
            with self.changing(name, f"delete rows of table {name!r} of") as dataset:
                # A delete that finds nothing would still make a version of the table.
                if dataset.count_rows(filter=condition):
                    done = dataset.delete(condition, conflict_retries=self._retries)
                    deleted += done["num_deleted_rows"]
        return deleted

    def refuse_earlier_commits(self, name: str) -> None:
        """Have the store refuse what was begun to be committed to a table before now. Changes no row."""
        with self.changing(name, f"write table {name!r} of") as dataset:
            refuse_earlier_commits(dataset)

    @property
    def _retries(self) -> int:
        return 0 if self.lease else _RETRIES

    @contextmanager
    def changing(self, name: str, doing: str) -> Iterator[lance.LanceDataset]:
        """``dataset``, for a change in the block; "cannot <doing> <archive>" is the ArchiveError if it fails.

        Raises ArchiveBusy if it fails because another writer took over.
        """
        dataset = self.dataset(name)
        try:
            with lance_errors(self._tables.uri, doing):
                yield dataset
        except ArchiveError:
            # Refused because another writer took over? Then that is the reason to give.
            try:
                self.dataset(name)
            except ArchiveBusy:
                raise
            except ArchiveError:
                pass
            raise
