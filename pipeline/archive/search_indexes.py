"""Search indexes of an archive's tables: which ones exist, how much they cover, and how they are updated.

Lance scans the rows that an index does not cover yet, so an outdated index is slow but never wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from malmm.pipeline.archive.location import lance_errors, open_dataset

if TYPE_CHECKING:
    import lancedb
    from lancedb.index import IvfPq

# LanceDB is imported where it is used: it loads a REST client, for seconds of CPU, and most commands make no index.

__all__ = [
    "VECTORS_INDEX",
    "WORDS_INDEX",
    "IndexState",
    "has_index",
    "index_states",
    "make_words_index",
    "update_indexes",
]

VECTORS_INDEX, WORDS_INDEX = "vectors_idx", "text_idx"
EXACT_ROWS = 5000
"""Smaller tables get no index: scanning them is as fast, and exact."""

# An index is updated once so many rows, or this share of the table, are not in it.
_MANY_ROWS, _MANY_SHARE = 5000, 0.1
_SUB_VECTOR = 8
_MOST_PARTITIONS = 4096
# Table, column, kind of index by its name in lancedb.index, and from how many rows on it is worth having.
_WANTED = (
    ("memories", "memory_id", "BTree", EXACT_ROWS),
    ("memories", "segment_id", "BTree", EXACT_ROWS),
    ("memories", "video_id", "BTree", EXACT_ROWS),
    ("annotations", "annotation_id", "BTree", EXACT_ROWS),
    ("annotations", "segment_id", "BTree", EXACT_ROWS),
    ("annotations", "video_id", "BTree", EXACT_ROWS),
    ("annotations", "prompt_version", "Bitmap", EXACT_ROWS),
    ("segments", "segment_id", "BTree", EXACT_ROWS),
    ("segments", "video_id", "BTree", EXACT_ROWS),
    ("annotations", "text", "FTS", 1),
    ("memories", "vectors", "IvfPq", EXACT_ROWS),
)


@dataclass(frozen=True)
class IndexState:
    """An index: ``rows`` of its table, of which it does not cover ``rows_unindexed``."""

    table: str
    column: str
    kind: str
    rows: int
    rows_unindexed: int


def has_index(table: lancedb.table.Table, name: str) -> bool:
    """Whether the table has an index of that name."""
    return any(index.name == name for index in table.list_indices())


def index_states(archive_uri: str) -> list[IndexState]:
    """All indexes of the archive whose tables lie at a resolved address. Raises ArchiveError."""
    import lancedb

    states = []
    with lance_errors(archive_uri, "read the indexes of"):
        database = lancedb.connect(archive_uri)
        for name in ("memories", "annotations", "segments"):
            for index in database.open_table(name).list_indices():
                unindexed = index.num_unindexed_rows or 0
                rows = (index.num_indexed_rows or 0) + unindexed
                states.append(IndexState(name, index.columns[0], index.index_type, rows, unindexed))
    return states


def make_words_index(archive_uri: str) -> None:
    """Create the full-text index of a new archive, so that its first text can be searched."""
    import lancedb
    from lancedb.index import FTS

    with lance_errors(archive_uri, "index the texts of"):
        lancedb.connect(archive_uri).open_table("annotations").create_index(
            "text", config=FTS(), name=WORDS_INDEX
        )


def update_indexes(
    archive_uri: str,
    *,
    at_once: bool = False,
    check: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda what: None,
) -> list[str]:
    """Create the indexes that the archive is large enough for and update those that lag. Returns their names.

    ``at_once`` updates an index even if it lags only by a few rows. ``check`` is called before each write and may raise
    to refuse it; ``tell`` is called with the name of each index before it is built.
    """
    import lancedb
    from lancedb import index as kinds

    done = []
    with lance_errors(archive_uri, "index"):
        database = lancedb.connect(archive_uri)
        for name, column, kind, least in _WANTED:
            table = database.open_table(name)
            here = next((index for index in table.list_indices() if index.columns == [column]), None)
            rows = table.count_rows(f"{column} IS NOT NULL")
            what = f"{name}.{column}"
            if here is None:
                if rows >= least:
                    check()
                    tell(what)
                    config = _vectors_config(table, rows) if kind == "IvfPq" else getattr(kinds, kind)()
                    table.create_index(column, config=config, name=f"{column}_idx")
                    done.append(what)
            else:
                behind = here.num_unindexed_rows or 0
                if behind and (at_once or behind >= min(_MANY_ROWS, max(1, _MANY_SHARE * rows))):
                    check()
                    tell(what)
                    # LanceDB's own way to a dataset takes the address for a URL, in which a path may not hold a `?`.
                    dataset = open_dataset(archive_uri, name)
                    if dataset is not None:
                        dataset.optimize.optimize_indices(index_names=[here.name])
                    done.append(what)
    return done


def _vectors_config(table: Any, rows: int) -> IvfPq:
    """Cosine, parts of about as many vectors as there are parts, a byte for every eight numbers."""
    from lancedb.index import IvfPq

    size = table.schema.field("vectors").type.value_type.list_size
    first = table.search().where("vectors IS NOT NULL").select(["vectors"]).limit(1).to_arrow()
    vectors = rows * len(first["vectors"][0])
    return IvfPq(
        distance_type="cosine",
        num_partitions=max(1, min(_MOST_PARTITIONS, round(math.sqrt(vectors) / 2))),
        num_sub_vectors=max(1, size // _SUB_VECTOR),
    )
