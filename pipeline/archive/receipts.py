"""Workers write rows as Lance fragments and make receipts. The rows are invisible until the driver commits a receipt.

A receipt stands for one segment. Memory slots are large (megabytes each), so they are written to the store right away,
in fragments of this segment alone: it can be committed or dropped without touching other segments. The few small rows
(of ``segments`` and ``annotations``) travel inside the receipt, so that a commit writes those of many segments as one
fragment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import write_fragments as lance_write_fragments

from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS

__all__ = ["conform", "write_fragments", "write_rows"]


def write_rows(archive_uri: str, tables: Mapping[str, pa.Table]) -> list[Receipt]:
    """Write the rows of one or several segments and return a receipt for each. Nothing is visible yet.

    ``tables`` has ``segments`` and may have ``memories`` and ``annotations``, with rows of those segments only.
    ``archive_uri`` is ``Archive.uri``. A segment may be written twice: the commit takes one of the two. Raises
    ArchiveError for rows that do not fit their table.
    """
    unknown = sorted(set(tables) - {"segments", "memories", "annotations"})
    if unknown or "segments" not in tables:
        what = (
            f"table {unknown[0]!r} cannot be written with a segment" if unknown else "there are no segments"
        )
        raise ArchiveError(f"cannot write rows to {archive_uri}: {what}", uri=archive_uri)
    memories_dataset = open_dataset(archive_uri, "memories")
    if memories_dataset is None:
        raise ArchiveError(f"no archive at {archive_uri}: its driver creates it before rows", uri=archive_uri)
    segments = conform(tables["segments"], SEGMENTS, "segments", archive_uri)
    annotations = conform(
        tables.get("annotations", ANNOTATIONS.empty_table()), ANNOTATIONS, "annotations", archive_uri
    )
    schema = memories_dataset.schema
    memories = conform(tables.get("memories", schema.empty_table()), schema, "memories", archive_uri)

    _check_unique(segments, "segment_id", "segments", archive_uri)
    _check_unique(annotations, "annotation_id", "annotations", archive_uri)
    _check_unique(memories, "memory_id", "memories", archive_uri)
    ids = segments["segment_id"].combine_chunks()
    for name, rows in (("memories", memories), ("annotations", annotations)):
        strangers = rows.filter(pc.invert(pc.is_in(rows["segment_id"], value_set=ids)))
        if strangers.num_rows:
            raise ArchiveError(
                f"cannot write rows to {archive_uri}: a row of {name!r} has segment_id "
                f"{strangers['segment_id'][0].as_py()!r}, which is not among the segments written with it",
                uri=archive_uri,
            )

    receipts = []
    for position in range(segments.num_rows):
        row = segments.slice(position, 1)
        segment = row["segment_id"][0].as_py()
        slots = memories.filter(pc.equal(memories["segment_id"], segment))
        texts = annotations.filter(pc.equal(annotations["segment_id"], segment))
        receipts.append(
            Receipt(
                segment_id=segment,
                video_id=row["video_id"][0].as_py(),
                memories=tuple(_write(memories_dataset, archive_uri, "memories", slots)),
                memory_count=slots.num_rows,
                annotations=_to_ipc(texts),
                annotation_count=texts.num_rows,
                segment=_to_ipc(row),
            )
        )
    return receipts


def write_fragments(archive_uri: str, table_name: str, rows: pa.Table) -> list[str]:
    """Write ``rows`` as fragments of an existing table and return their FragmentMetadata as JSON.

    Raises ArchiveError if the table is missing or a column does not fit.
    """
    dataset = open_dataset(archive_uri, table_name)
    if dataset is None:
        raise ArchiveError(f"no table {table_name!r} in {archive_uri}", uri=archive_uri)
    return _write(dataset, archive_uri, table_name, conform(rows, dataset.schema, table_name, archive_uri))


def conform(rows: pa.Table, schema: pa.Schema, table_name: str, archive_uri: str) -> pa.Table:
    """Return ``rows`` with the columns, order and types of ``schema``.

    Raises ArchiveError, with the column's name, for a column that is missing, unknown, of a type that cannot be cast,
    or null where nulls are not allowed.
    """

    def refuse(column: str, why: str) -> ArchiveError:
        return ArchiveError(
            f"cannot write rows to table {table_name!r} of {archive_uri}: column {column!r} {why}",
            uri=archive_uri,
        )

    for column in rows.column_names:
        if column not in schema.names:
            raise refuse(column, "is not in its schema")
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            if not field.nullable:
                raise refuse(field.name, "is missing")
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows[field.name]
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowException as error:
                raise refuse(
                    field.name, f"is {column.type} and cannot become {field.type}: {error}"
                ) from error
        if not field.nullable and column.null_count:
            raise refuse(field.name, "has nulls")
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _write(dataset: lance.LanceDataset, archive_uri: str, table_name: str, rows: pa.Table) -> list[str]:
    if not rows.num_rows:
        return []
    with lance_errors(archive_uri, f"write rows of table {table_name!r} to"):
        fragments = lance_write_fragments(rows, dataset, schema=rows.schema, mode="append")
    return [json.dumps(fragment.to_json()) for fragment in fragments]


def _check_unique(rows: pa.Table, column: str, table_name: str, archive_uri: str) -> None:
    if pc.count_distinct(rows[column]).as_py() != rows.num_rows:
        raise ArchiveError(
            f"cannot write rows to table {table_name!r} of {archive_uri}: two rows have the same {column}",
            uri=archive_uri,
        )


def _to_ipc(rows: pa.Table) -> bytes:
    columns = [column.combine_chunks() for column in rows.columns]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema).serialize().to_pybytes()
