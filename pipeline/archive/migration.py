"""Giving an archive that an earlier version wrote what this one adds to its tables. Rows and ids stay as they are."""

from __future__ import annotations

import lance
import pyarrow as pa

from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.text_grams import GRAMS_COLUMN, grams_of
from malmm.pipeline.archive.video_metadata import type_stored_metadata
from malmm.pipeline.schema.tables import ADDED_COLUMNS, GIVEN_COLUMNS

__all__ = ["add_given_columns", "migrate"]


def migrate(changes: TableWriter) -> list[str]:
    """Add the columns that the archive lacks, filled, and type its metadata; the names of what changed.

    Raises ArchiveError, and ArchiveBusy.
    """
    typed = [f"videos.{name}" for name in type_stored_metadata(changes)]
    added = []
    with changes.changing("annotations", "add a column to table 'annotations' of") as dataset:
        if GRAMS_COLUMN not in dataset.schema.names:
            dataset.add_columns(_grams_of_batch, read_columns=["text"])
            added.append(GRAMS_COLUMN)
    added += add_given_columns(changes)
    return [*typed, *(f"annotations.{name}" for name in added)]


def add_given_columns(changes: TableWriter) -> list[str]:
    """Add the columns that only texts from outside need, all null; the names of those that were missing."""
    with changes.changing("annotations", "add columns to table 'annotations' of") as dataset:
        missing = [name for name in GIVEN_COLUMNS if name not in dataset.schema.names]
        if missing:
            dataset.add_columns(pa.schema([pa.field(name, ADDED_COLUMNS[name]) for name in missing]))
    return missing


@lance.batch_udf(output_schema=pa.schema([pa.field(GRAMS_COLUMN, pa.string())]))
def _grams_of_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    grams = pa.array([grams_of(text) for text in batch["text"].to_pylist()], pa.string())
    return pa.record_batch([grams], names=[GRAMS_COLUMN])
