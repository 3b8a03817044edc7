"""What the indexes of an archive cover, and which of them is about to make searches slow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance

from malmm.pipeline.archive import search_indexes, vector_index
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.search_indexes import INDEXED_TABLES
from malmm.pipeline.archive.table_reader import TableReader

__all__ = ["IndexState", "index_states", "index_warnings"]

# What LanceDB calls a kind that has another name in Lance.
_KINDS = {"Inverted": "FTS"}
# Beyond so many rows, and this share of the table, comparing what an index does not cover takes as long as the rest.
_WAITING_ROWS, _WAITING_SHARE = 2500, 0.05


@dataclass(frozen=True)
class IndexState:
    """An index, and how many of its table's rows it covers.

    ``partitions`` has those of each part of an index of vectors, and is empty for other kinds. ``trained_at`` is when
    the oldest part was made.
    """

    table: str
    column: str
    kind: str
    rows: int
    rows_unindexed: int
    partitions: tuple[int, ...]
    trained_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """The state for JSON."""
        return vars(self) | {
            "partitions": list(self.partitions),
            "trained_at": self.trained_at and self.trained_at.isoformat(),
        }


def index_states(tables: TableReader) -> list[IndexState]:
    """Every index of an archive. Raises ArchiveError."""
    states = []
    for name in INDEXED_TABLES:
        dataset = tables.dataset(name)
        with lance_errors(tables.uri, f"read the indexes of table {name!r} of"):
            rows = dataset.count_rows()
            states += [_state(dataset, name, rows, index) for index in dataset.describe_indices()]
    return states


def index_warnings(tables: TableReader, states: list[IndexState]) -> list[str]:
    """Sentences on indexes that are missing, of an old kind or behind, with what helps. Raises ArchiveError."""
    warnings = []
    vectors = next(
        (state for state in states if (state.table, state.column) == ("memories", "vectors")), None
    )
    if vectors is None:
        dataset = tables.dataset("memories")
        with lance_errors(tables.uri, "read table 'memories' of"):
            rows = dataset.count_rows(filter="vectors IS NOT NULL")
        if rows >= search_indexes.EXACT_ROWS:
            warnings.append(f"{rows} memory slots have no index, so each search compares all of them")
    elif vectors.kind != vector_index.KIND:
        warnings.append(
            f"the index of memories.vectors is of the kind {vectors.kind}, as earlier versions made it, and finds "
            "fewer of the nearest slots"
        )
    for state in states:
        if state.rows_unindexed > max(_WAITING_ROWS, _WAITING_SHARE * state.rows):
            warnings.append(
                f"the index of {state.table}.{state.column} does not cover {state.rows_unindexed} of {state.rows} "
                "rows, so searches become slower"
            )
    return [f"{warning}: run `malmm optimize`" for warning in warnings]


def _state(dataset: lance.LanceDataset, name: str, rows: int, index: Any) -> IndexState:
    made = [segment.created_at for segment in index.segments if segment.created_at is not None]
    oldest = min(made, default=None)
    return IndexState(
        table=name,
        column=index.field_names[0],
        kind=_KINDS.get(index.index_type, index.index_type),
        rows=rows,
        rows_unindexed=search_indexes.rows_unindexed(dataset, index),
        partitions=tuple(vector_index.partitions_of(dataset))
        if index.name == vector_index.VECTORS_INDEX
        else (),
        trained_at=oldest if oldest is None or oldest.tzinfo else oldest.replace(tzinfo=UTC),
    )
