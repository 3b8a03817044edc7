"""Which retrieval model made the vectors of an archive, recorded with the column that holds them.

An archive gets the vectors of another retrieval model without new segments: they are collected in a table of their
own, then added to ``memories`` as a second column, and the two columns change names in one commit. The new one has the
name and the fingerprint of its retrieval model in its metadata, so that vectors and model change at the same moment.
Archives whose vectors were never made anew have no such metadata: there the recipe says it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import lance
import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.fencing import forget_old_versions, raise_fence
from malmm.pipeline.archive.location import change_columns, create_dataset, open_dataset
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import COLLECTED_VECTORS as COLLECTED

__all__ = ["Collected", "recipe_of_vectors", "remove_leftovers", "switch_vectors"]

_KEY = b"malmm.retrieval_model"
_NEXT, _OLD = "next_vectors", "old_vectors"


def recipe_of_vectors(recipe: Recipe, memories: pa.Schema) -> Recipe:
    """The recipe with the retrieval model of the vectors in a ``memories`` table of this schema. Raises ValueError."""
    field = memories.field("vectors") if "vectors" in memories.names else None
    stated = (field.metadata or {}).get(_KEY) if field is not None else None
    if stated is None:
        return recipe
    name, fingerprint = json.loads(stated)
    return replace(
        recipe,
        retrieval_model=str(name),
        retrieval_fingerprint=str(fingerprint),
        indexed_with=recipe.indexed_with or recipe.retrieval_fingerprint,
    )


@dataclass(frozen=True)
class Collected:
    """New vectors, kept in a table of their own until all are there. A run that was stopped goes on with them.

    Every change of that table is fenced like those of the others. So it is emptied and not deleted: the store would
    delete it for a writer that was overtaken too. ``name`` and ``fingerprint`` are the retrieval model's, and ``size``
    is how many numbers a vector has.
    """

    uri: str
    changes: TableWriter
    name: str
    fingerprint: str
    size: int

    def begin(self) -> set[str]:
        """The ids of the segments whose vectors are there. Deletes vectors of another retrieval model."""
        found = open_dataset(self.uri, COLLECTED)
        if found is None:
            lease = self.changes.check()
            create_dataset(self.uri, COLLECTED, self._schema().empty_table())
            # Whoever was overtaken before there was this table must not take it for its own.
            raise_fence(self.uri, COLLECTED, lease.token)
        elif found.schema.metadata != self._schema().metadata:
            self.end()
        return self.changes.tables.ids(COLLECTED, "segment_id")

    def add(self, segments: Sequence[tuple[str, Sequence[str], np.ndarray]]) -> None:
        """Keep vectors [S, Q, V] of segments: (segment_id, ids of its slots in order, vectors)."""
        kind = self._schema().field("vectors").type
        columns = [
            pa.array([segment for segment, ids, _ in segments for _ in ids], pa.string()),
            pa.array([memory for _, ids, _ in segments for memory in ids], pa.string()),
            pa.array([list(own) for *_, vectors in segments for own in vectors.astype(np.float16)], kind),
        ]
        self.changes.append(COLLECTED, pa.Table.from_arrays(columns, schema=self._schema()))

    def end(self) -> None:
        """Empty the table, and give its space back."""
        with self.changes.changing(COLLECTED, f"empty table {COLLECTED!r} of") as dataset:
            change_columns(dataset, self._schema(), self.uri)
        with self.changes.changing(COLLECTED, f"empty table {COLLECTED!r} of") as dataset:
            forget_old_versions(dataset, timedelta(0))

    def _schema(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field("segment_id", pa.string(), nullable=False),
                pa.field("memory_id", pa.string(), nullable=False),
                pa.field("vectors", pa.list_(pa.list_(pa.float16(), self.size))),
            ],
            metadata={_KEY: json.dumps([self.name, self.fingerprint]).encode()},
        )


def remove_leftovers(changes: TableWriter) -> None:
    """Drop columns that a switch left when it was stopped. Rows and vectors in force stay as they are."""
    with changes.changing("memories", "change columns of table 'memories' of") as dataset:
        left = [name for name in (_NEXT, _OLD) if name in dataset.schema.names]
        if left:
            dataset.drop_columns(left)


def switch_vectors(collected: Collected) -> None:
    """Put the collected vectors in the place of the old ones: at one stroke for readers. Ends the collecting.

    Slots without new vectors have none from then on. The index of the old vectors is gone too. Raises ArchiveError.
    """
    changes, uri = collected.changes, collected.uri
    new = open_dataset(uri, COLLECTED)
    if new is None:
        raise ArchiveError(f"{uri} has no table {COLLECTED!r}", uri=uri)
    stated = {_KEY: json.dumps([collected.name, collected.fingerprint]).encode()}
    column = pa.field(_NEXT, new.schema.field("vectors").type, metadata=stated)
    schema = pa.schema([new.schema.field("memory_id"), column])
    remove_leftovers(changes)
    with changes.changing("memories", "add vectors to table 'memories' of") as dataset:
        dataset.merge(pa.RecordBatchReader.from_batches(schema, _batches(new, schema)), "memory_id")
    with changes.changing("memories", "change columns of table 'memories' of") as dataset:
        dataset.alter_columns({"path": "vectors", "name": _OLD}, {"path": _NEXT, "name": "vectors"})
    remove_leftovers(changes)
    collected.end()


def _batches(new: lance.LanceDataset, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in new.scanner(columns=["memory_id", "vectors"]).to_batches():
        yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
