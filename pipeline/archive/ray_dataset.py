"""An archive's tables as Ray Datasets, for your own pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.archive.reader import ArchiveReader

if TYPE_CHECKING:
    import ray.data

__all__ = ["dataset"]


def dataset(
    archive: str | ArchiveReader,
    table: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> ray.data.Dataset:
    """Rows of a table, read by the cluster's workers; ``where`` is a SQL condition over its columns.

    Without ``columns`` reads all but the tokens of ``memories``: read those with ``ArchiveReader.memory_tokens``.
    Raises ArchiveError if there is no such archive or table.
    """
    # Ray takes seconds to load.
    import ray.data

    reader = ArchiveReader.open(archive) if isinstance(archive, str) else archive
    names = [name for name in reader.schema(table).names if name != "tokens"]
    return ray.data.read_lance(
        table_uri(reader.uri, table), columns=list(columns) if columns is not None else names, filter=where
    )
