"""Fenced changes of an archive's tables: a writer that has no lease, or lost it, can change none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata

from malmm.pipeline.archive.fencing import check_token, is_fenced, refuse_earlier_commits
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import ensure_dataset, lance_errors
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError
from malmm.pipeline.schema.tables import LATER_TABLES

__all__ = ["TableWriter"]


class TableWriter:
    """Changes the tables that ``tables`` reads, under ``lease``: without one every change is refused."""

    def __init__(self, tables: TableReader) -> None:
        self.tables = tables
        self.lease: Lease | None = None

    def dataset(self, name: str) -> lance.LanceDataset:
        """Open a table for the next change. Raises ArchiveBusy if another writer took over, ArchiveError if not held.

        Make the change on this handle, and never retry it on a later version: a retry would get past the fence of the
        writer that took over.
        """
        dataset = self.tables.dataset(name)
        lease = self.check()
        check_token(dataset, lease.token, lease.archive_uri)
        return dataset

    def ensure(self, name: str) -> None:
        """Create one of ``LATER_TABLES`` if it is missing, so that it can be changed. Raises as ``dataset`` does."""
        lease = self.check()
        dataset = ensure_dataset(self.tables.uri, name, LATER_TABLES[name].empty_table())
        if not is_fenced(dataset):
            # A writer that took over before the table was made could not fence it.
            lease.confirm()

    def check(self) -> Lease:
        """Return the lease. Raises ArchiveBusy when it was lost, and ArchiveError where there is none."""
        if self.lease is None:
            uri = self.tables.uri
            raise ArchiveError(f"{uri} is not held: change it in a block of `with archive.held():`", uri=uri)
        self.lease.check()
        return self.lease

    def append_fragments(self, name: str, fragments: list[str]) -> None:
        """Commit fragments that workers wrote. ``fragments`` are their FragmentMetadata as JSON."""
        if not fragments:
            return
        operation = lance.LanceOperation.Append([FragmentMetadata.from_json(text) for text in fragments])
        with self.changing(name, f"commit rows of table {name!r} to") as dataset:
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)

    def append(self, name: str, rows: pa.Table) -> None:
        """Append rows and commit."""
        if not rows.num_rows:
            return
        with self.changing(name, f"commit rows of table {name!r} to") as dataset:
            # Lance takes ten times as long for a thousand chunks of one row as for one chunk.
            lance.write_dataset(rows.combine_chunks(), dataset, mode="append")

    def upsert(self, name: str, key: str, rows: pa.Table) -> None:
        """Update the rows that have the same key, and insert the others."""
        # An upsert of no rows would still make a version.
        if not rows.num_rows:
            return
        with self.changing(name, f"write table {name!r} of") as dataset:
            merge = dataset.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
            merge.conflict_retries(0).execute(rows)

    def delete(self, name: str, column: str, ids: Iterable[str], also: str | None = None) -> int:
        """Delete the rows whose ``column`` is one of ``ids`` and that match ``also``; return how many."""
        deleted = 0
        for part in is_in(column, ids):
            condition = part if also is None else f"{part} AND {also}"
            with self.changing(name, f"delete rows of table {name!r} of") as dataset:
                # A delete that finds nothing would still make a version of the table.
                if dataset.count_rows(filter=condition):
                    done = dataset.delete(condition, conflict_retries=0)
                    deleted += done["num_deleted_rows"]
        return deleted

    def refuse_earlier_commits(self, name: str) -> None:
        """Make the store refuse all commits to a table that were begun before now. Changes no row."""
        with self.changing(name, f"write table {name!r} of") as dataset:
            refuse_earlier_commits(dataset)

    @contextmanager
    def changing(self, name: str, doing: str) -> Iterator[lance.LanceDataset]:
        """Open a table for a change in the block, and turn Lance's exceptions into "cannot <doing> <archive>: ...".

        Raises ArchiveBusy if the change failed because another writer took over, else ArchiveError.
        """
        dataset = self.dataset(name)
        try:
            with lance_errors(self.tables.uri, doing):
                yield dataset
        except ArchiveError:
            # If another writer took over, that is the reason to report.
            try:
                self.dataset(name)
            except ArchiveBusy:
                raise
            except ArchiveError:
                pass
            raise
