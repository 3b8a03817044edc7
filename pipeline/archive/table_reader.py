"""An archive's tables at their latest version, and reading rows and ids of them in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import lance
import lancedb
import pyarrow as pa

from malmm.pipeline.archive.location import is_local, lance_errors, open_dataset, resolve
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.versions import in_force
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError

__all__ = ["TableReader"]


# What a reader may keep of indexes, at most, twice: LanceDB's cache and Lance's are two.
_INDEX_CACHE_BYTES = 1 << 30


class TableReader:
    """Reads whole tables. Every call reads the latest committed version; no handle is kept.

    What no commit changes is kept between calls: indexes and the layout of files, 1.1 GiB at most of each kind.
    """

    _LAYOUT_CACHE_BYTES: ClassVar[int] = 128 << 20
    """For the layout of tables and files, twice as well."""

    def __init__(self, uri: str, recipe: Recipe, root: str | None = None) -> None:
        self._uri = uri
        self._recipe = recipe
        self._root = root or uri
        self._session: lance.Session | None = None
        self._database: lancedb.DBConnection | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process keeps its own caches."""
        return vars(self) | {"_session": None, "_database": None}

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open an existing archive. Raises ArchiveError when there is none or it cannot be reached."""
        place = resolve(uri)
        if is_local(place) and Path(place).is_file():
            raise ArchiveError(f"{uri} is a file, and an archive is a directory", uri=place)
        found = in_force(place)
        if found is None:
            raise ArchiveError(
                f"there is no archive at {uri}: make one with `malmm index VIDEOS --archive {uri}`", uri=place
            )
        return cls(found.address(place), found.recipe, place)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._uri!r})"

    @property
    def uri(self) -> str:
        """Where the tables lie, an absolute path or object store URI, good in every process."""
        return self._uri

    @property
    def root(self) -> str:
        """The archive's own address, by which people know it; the tables may lie below it."""
        return self._root

    @property
    def recipe(self) -> Recipe:
        """The recipe of every row in the archive."""
        return self._recipe

    def table(self, name: str) -> lancedb.table.Table:
        """The LanceDB table, opened anew: an older handle would not see later commits."""
        with lance_errors(self._uri, f"open table {name!r} of"):
            if self._database is None:
                kept = lancedb.Session(
                    index_cache_size_bytes=_INDEX_CACHE_BYTES,
                    metadata_cache_size_bytes=self._LAYOUT_CACHE_BYTES,
                )
                self._database = lancedb.connect(self._uri, session=kept)
            return self._database.open_table(name)

    def schema(self, name: str) -> pa.Schema:
        """A table's Arrow schema, as in ``records``."""
        return self._dataset(name).schema

    def count(self, name: str) -> int:
        """The number of rows of a table."""
        return self._dataset(name).count_rows()

    def completed_among(self, segment_ids: Iterable[str]) -> set[str]:
        """Those of the given segments that are done."""
        return self._ids("segments", "segment_id", is_in("segment_id", segment_ids))

    def _dataset(self, name: str) -> lance.LanceDataset:
        if self._session is None:
            self._session = lance.Session(
                index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=self._LAYOUT_CACHE_BYTES
            )
        dataset = open_dataset(self._uri, name, self._session)
        if dataset is None:
            raise ArchiveError(f"{self._uri} has no table {name!r}", uri=self._uri)
        return dataset

    def _rows(
        self, name: str, filters: Iterable[str] | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        dataset = self._dataset(name)
        with lance_errors(self._uri, f"read table {name!r} of"):
            if filters is None:
                return dataset.to_table(columns=columns)
            parts = [dataset.to_table(columns=columns, filter=part) for part in filters]
            return pa.concat_tables(parts) if parts else dataset.to_table(columns=columns, limit=0)

    def _ids(self, name: str, column: str, filters: Iterable[str] | None = None) -> set[str]:
        ids: set[str] = set()
        for batch in self._batches(name, [column], filters):
            ids.update(batch[column].unique().to_pylist())
        ids.discard(None)  # a whole video's annotation has no segment_id
        return ids

    def _batches(
        self, name: str, columns: list[str], filters: Iterable[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        dataset = self._dataset(name)
        with lance_errors(self._uri, f"read table {name!r} of"):
            for part in [None] if filters is None else filters:
                yield from dataset.scanner(columns=columns, filter=part).to_batches()
