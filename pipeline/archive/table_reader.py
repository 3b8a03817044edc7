"""Bulk reading of rows and ids from an archive's tables at their latest version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import lance
import pyarrow as pa

from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import ADDED_COLUMNS

if TYPE_CHECKING:
    import lancedb

__all__ = ["TableReader", "read_columns"]

T = TypeVar("T")

# Largest size of each of the two index caches: LanceDB's and Lance's.
_INDEX_CACHE_BYTES = 1 << 30
# The ids of up to so many completed segments are kept (10 MB); of more they are looked up in the table.
_COMPLETED_KEPT = 50_000


def read_columns(dataset: lance.LanceDataset, columns: Sequence[str] | None, **options: Any) -> pa.Table:
    """``dataset.to_table``, with nulls for columns that were added to archives since this one was made."""
    names = dataset.schema.names
    missing = [name for name in columns or () if name in ADDED_COLUMNS and name not in names]
    there = None if columns is None else [name for name in columns if name not in missing]
    rows = dataset.to_table(columns=there, **options)
    for name in missing:
        rows = rows.append_column(name, pa.nulls(rows.num_rows, ADDED_COLUMNS[name]))
    return rows


def _segment_ids(dataset: lance.LanceDataset) -> frozenset[str]:
    return frozenset(dataset.to_table(columns=["segment_id"])["segment_id"].to_pylist())


def _no_rows(dataset: lance.LanceDataset, columns: list[str] | None) -> pa.Table:
    """An empty table of these columns, without reading."""
    if columns is None:
        return read_columns(dataset, None, limit=0)
    types = {**ADDED_COLUMNS, **{field.name: field.type for field in dataset.schema}}
    return pa.table({name: pa.array([], types[name]) for name in columns})


class TableReader:
    """Reads the tables at an address. Every call reads the latest committed version; no handle is kept.

    Caches what no commit changes: at most 1 GiB of indexes and ``layout_cache_bytes`` of file metadata, twice, since
    LanceDB and Lance have caches of their own. ``of_version`` keeps what was read of a table's latest version.
    """

    def __init__(
        self, uri: str, layout_cache_bytes: int = 128 << 20, session: lance.Session | None = None
    ) -> None:
        """``session`` is a cache of Lance's that several readers share; without it this reader has its own."""
        self.uri = uri
        self._layout_cache_bytes = layout_cache_bytes
        self._session = session
        self._database: lancedb.DBConnection | None = None
        self._of_version: dict[tuple[str, object], tuple[object, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Drop the caches: another process has its own."""
        return vars(self) | {"_session": None, "_database": None, "_of_version": {}}

    @property
    def session(self) -> lance.Session:
        """The cache of Lance's."""
        if self._session is None:
            self._session = lance.Session(
                index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=self._layout_cache_bytes
            )
        return self._session

    def table(self, name: str) -> lancedb.table.Table:
        """Open the LanceDB table at its latest version. A handle does not see later commits."""
        with lance_errors(self.uri, f"open table {name!r} of"):
            if self._database is None:
                # For programs that ask for its tables. All else is done by Lance: LanceDB loads a REST client, for
                # seconds of CPU.
                import lancedb

                kept = lancedb.Session(
                    index_cache_size_bytes=_INDEX_CACHE_BYTES,
                    metadata_cache_size_bytes=self._layout_cache_bytes,
                )
                self._database = lancedb.connect(self.uri, session=kept)
            return self._database.open_table(name)

    def dataset(self, name: str) -> lance.LanceDataset:
        """Open the table as a Lance dataset at its latest version. Raises ArchiveError if there is none."""
        dataset = open_dataset(self.uri, name, self.session)
        if dataset is None:
            raise ArchiveError(f"{self.uri} has no table {name!r}", uri=self.uri)
        return dataset

    def version(self, name: str) -> object:
        """What tells one state of a table from another: it is equal as long as nothing was committed."""
        return self.dataset(name).version

    def has(self, name: str) -> bool:
        """Whether the table is there. Those of ``LATER_TABLES`` may not be."""
        return open_dataset(self.uri, name, self._session) is not None

    def rows(
        self, name: str, filters: Iterable[str] | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """Rows that match the filters, one filter after the other; all rows without ``filters``."""
        dataset = self.dataset(name)
        with lance_errors(self.uri, f"read table {name!r} of"):
            if filters is None:
                return read_columns(dataset, columns)
            parts = [read_columns(dataset, columns, filter=part) for part in filters]
            return pa.concat_tables(parts) if parts else _no_rows(dataset, columns)

    def ids(self, name: str, column: str, filters: Iterable[str] | None = None) -> set[str]:
        """Distinct values, without null, of a column in the rows that match any of the filters."""
        found: set[str] = set()
        for batch in self.batches(name, [column], filters):
            found.update(batch[column].unique().to_pylist())
        found.discard(None)  # a whole video's annotation has no segment_id
        return found

    def batches(
        self, name: str, columns: list[str], filters: Iterable[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Columns of the rows that match the filters, a batch at a time."""
        dataset = self.dataset(name)
        with lance_errors(self.uri, f"read table {name!r} of"):
            for part in [None] if filters is None else filters:
                yield from dataset.scanner(columns=columns, filter=part).to_batches()

    def completed_among(self, segment_ids: Iterable[str]) -> set[str]:
        """Return which of the given segments are done."""
        dataset = self.dataset("segments")
        if dataset.count_rows() > _COMPLETED_KEPT:
            return self.ids("segments", "segment_id", is_in("segment_id", segment_ids))
        return set(self.of_version("segments", dataset, _segment_ids).intersection(segment_ids))

    def of_version(
        self, name: str, dataset: lance.LanceDataset, read: Callable[[lance.LanceDataset], T]
    ) -> T:
        """``read(dataset)`` of a table's latest version, from memory as long as nothing is committed to the table.

        ``read`` is a function that returns something small, the same for the same version.
        """
        state = (dataset.version, dataset.count_rows())
        kept = self._of_version.get((name, read))
        if kept is None or kept[0] != state:
            with lance_errors(self.uri, f"read table {name!r} of"):
                # Replaced as a whole: several threads may search.
                kept = self._of_version[name, read] = (state, read(dataset))
        found: T = kept[1]
        return found
