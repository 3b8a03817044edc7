"""Giving an archive that an earlier version wrote what this one adds to its tables. Rows and ids stay as they are."""

from __future__ import annotations

import lance
import pyarrow as pa

from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.text_grams import GRAMS_COLUMN, grams_of

__all__ = ["migrate"]


def migrate(changes: TableWriter) -> list[str]:
    """Add the columns that the archive lacks, filled; their names. Raises ArchiveError, and ArchiveBusy."""
    with changes.changing("annotations", "add a column to table 'annotations' of") as dataset:
        if GRAMS_COLUMN in dataset.schema.names:
            return []
        dataset.add_columns(_grams_of_batch, read_columns=["text"])
    return [f"annotations.{GRAMS_COLUMN}"]


@lance.batch_udf(output_schema=pa.schema([pa.field(GRAMS_COLUMN, pa.string())]))
def _grams_of_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    grams = pa.array([grams_of(text) for text in batch["text"].to_pylist()], pa.string())
    return pa.record_batch([grams], names=[GRAMS_COLUMN])
