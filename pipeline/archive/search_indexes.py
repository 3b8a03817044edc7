"""Search indexes of an archive's tables: which ones exist, and how they are updated.

Lance scans the rows that an index does not cover yet, so an outdated index is slow but never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import lance
from lance.commit import CommitConflictError

from malmm.pipeline.archive import vector_index
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.text_grams import GRAMS_COLUMN
from malmm.pipeline.archive.vector_index import BuildPieces
from malmm.pipeline.archive.video_metadata import metadata_columns

__all__ = [
    "EXACT_ROWS",
    "INDEXED_TABLES",
    "make_words_indexes",
    "remake_indexes",
    "rows_unindexed",
    "update_indexes",
]

EXACT_ROWS = 5000
"""Smaller tables get no index: scanning them is as fast, and exact."""
INDEXED_TABLES = ("memories", "annotations", "segments", "videos")

# An index of keys or words is updated once so many rows, or this share of the table, are not in it.
_MANY_ROWS, _MANY_SHARE = 5000, 0.1
_TRIES = 5


class _Wanted(NamedTuple):
    """An index of keys or words: its kind in Lance, and from how many rows on it is worth having."""

    table: str
    column: str
    kind: str
    least: int = EXACT_ROWS
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def what(self) -> str:
        return f"{self.table}.{self.column}"

    def is_made(self, dataset: lance.LanceDataset) -> bool:
        """Whether the table has the index."""
        return any(each.field_names == [self.column] for each in dataset.describe_indices())

    def make(self, dataset: lance.LanceDataset) -> None:
        """Create the index of a table, in the place of one that is there."""
        # By Lance: LanceDB makes the same index, and loads a REST client for seconds of CPU.
        dataset.create_scalar_index(self.column, self.kind, f"{self.column}_idx", **self.options)


# Grams are looked up as they are.
_AS_THEY_ARE = MappingProxyType(
    {
        "base_tokenizer": "whitespace",
        "stem": False,
        "remove_stop_words": False,
        "lower_case": False,
        "ascii_folding": False,
    }
)
_WORDS = (
    _Wanted("annotations", "text", "FTS", 1),
    _Wanted("annotations", GRAMS_COLUMN, "FTS", 1, _AS_THEY_ARE),
)
_WANTED = (
    _Wanted("memories", "memory_id", "BTREE"),
    _Wanted("memories", "segment_id", "BTREE"),
    _Wanted("memories", "video_id", "BTREE"),
    _Wanted("annotations", "annotation_id", "BTREE"),
    _Wanted("annotations", "segment_id", "BTREE"),
    _Wanted("annotations", "video_id", "BTREE"),
    _Wanted("annotations", "prompt_version", "BITMAP"),
    _Wanted("segments", "segment_id", "BTREE"),
    _Wanted("segments", "video_id", "BTREE"),
    *_WORDS,
)


def make_words_indexes(archive_uri: str) -> None:
    """Create the full-text indexes of a new archive, so that its first text can be searched."""
    with lance_errors(archive_uri, "index the texts of"):
        tables = TableReader(archive_uri)
        for words in _WORDS:
            for attempt in range(_TRIES):
                dataset = tables.dataset(words.table)
                if words.is_made(dataset):
                    break
                try:
                    words.make(dataset)
                except CommitConflictError:
                    # Another run that makes the archive at the same moment has made the index.
                    if attempt == _TRIES - 1:
                        raise


def remake_indexes(archive_uri: str, changes: TableWriter, *, tell: Callable[[str], None]) -> None:
    """Make all indexes that there are anew, so that they hold nothing of rows that were deleted.

    Texts can be searched meanwhile; vectors are compared one by one until their index is there again. Raises
    ArchiveError, and ArchiveBusy when another writer took over.
    """
    for wanted in _WANTED:
        with changes.changing(wanted.table, f"index {wanted.what} of") as dataset:
            if wanted.is_made(dataset):
                tell(wanted.what)
                wanted.make(dataset)
    with changes.changing("memories", "index memories.vectors of") as dataset:
        for each in dataset.describe_indices():
            if each.field_names == ["vectors"]:
                dataset.drop_index(each.name)
    update_indexes(archive_uri, changes, at_once=True, tell=tell)


def rows_unindexed(dataset: lance.LanceDataset, index: Any) -> int:
    """How many rows of a table one of its indexes, as ``describe_indices`` gives it, does not cover."""
    covered = {fragment for segment in index.segments for fragment in segment.fragment_ids}
    return sum(
        fragment.count_rows() for fragment in dataset.get_fragments() if fragment.fragment_id not in covered
    )


def update_indexes(
    archive_uri: str,
    changes: TableWriter,
    *,
    at_once: bool = False,
    tell: Callable[[str], None] = lambda what: None,
    build_pieces: BuildPieces | None = None,
) -> list[str]:
    """Create the indexes that the archive is large enough for and update those that lag. Returns their names.

    ``at_once`` updates an index even if it lags only by a few rows. ``tell`` is called with the name of each index
    before it is built. ``build_pieces`` builds an index of very many vectors on workers. Raises ArchiveError, and
    ArchiveBusy when another writer took over.
    """
    done = []
    for wanted in (*_WANTED, *_of_metadata(changes)):
        with changes.changing(wanted.table, f"index {wanted.what} of") as dataset:
            if _update(dataset, wanted, at_once, tell):
                done.append(wanted.what)
    with changes.changing("memories", "index memories.vectors of") as dataset:
        if _update_vectors(archive_uri, dataset, at_once, tell, build_pieces):
            done.append("memories.vectors")
    return done


def _of_metadata(changes: TableWriter) -> list[_Wanted]:
    """An index for each column of metadata, by which videos are filtered."""
    columns = metadata_columns(changes.dataset("videos").schema).values()
    return [_Wanted("videos", each.column, "BITMAP" if each.kind == "bool" else "BTREE") for each in columns]


def _update(dataset: lance.LanceDataset, wanted: _Wanted, at_once: bool, tell: Callable[[str], None]) -> bool:
    if wanted.column not in dataset.schema.names:
        # Archives of 0.1 lack a column until they are optimized.
        return False
    here = next((each for each in dataset.describe_indices() if each.field_names == [wanted.column]), None)
    rows = dataset.count_rows()
    if here is None:
        if rows < wanted.least:
            return False
        tell(wanted.what)
        wanted.make(dataset)
        return True
    behind = rows_unindexed(dataset, here)
    if behind == 0 or not (at_once or behind >= min(_MANY_ROWS, max(1, _MANY_SHARE * rows))):
        return False
    tell(wanted.what)
    dataset.optimize.optimize_indices(index_names=[here.name])
    return True


def _update_vectors(
    archive_uri: str,
    dataset: lance.LanceDataset,
    at_once: bool,
    tell: Callable[[str], None],
    build_pieces: BuildPieces | None,
) -> bool:
    if not dataset.count_rows(filter="vectors IS NOT NULL"):
        return False
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in dataset.get_fragments()}
    parts, kind = vector_index.parts_of(dataset, rows)
    planned = vector_index.plan(
        parts,
        rows,
        exact_rows=EXACT_ROWS,
        is_right_kind=kind in (None, vector_index.KIND),
        at_once=at_once,
    )
    if planned is None:
        return False
    tell("memories.vectors")
    vector_index.change_parts(archive_uri, dataset, planned, build_pieces)
    return True
