"""Read tables that other programs wrote: CSV, JSON lines and Parquet, and labels in JSON, with each row's place."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from malmm.pipeline.archive.label_imports import read_labels
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["TABLE_ENDINGS", "ForeignRow", "read_foreign"]

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".json")
_DELIMITERS = ",;\t"
_BATCH_ROWS = 10_000

ForeignRow = tuple[str, dict[str, Any] | str]
"""Where a row is (``row 12``), and its values by column in lower case, or a sentence if it cannot be read."""


def read_foreign(file: str) -> Iterator[ForeignRow]:
    """Yield the rows of a table by the ending of its name. A CSV file's header is row 1, as spreadsheets count.

    Raises ConfigError for a file that is missing, of another kind, or not a table at all.
    """
    path = Path(file)
    ending = path.suffix.lower()
    if ending not in TABLE_ENDINGS:
        raise ConfigError(f"{file} is of no kind that can be imported: one of {', '.join(TABLE_ENDINGS)}")
    try:
        if ending == ".parquet":
            yield from _parquet(path)
        elif ending == ".json":
            yield from read_labels(path)
        elif ending in (".csv", ".tsv"):
            yield from _csv(path)
        else:
            yield from _json_lines(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not in UTF-8 (byte {error.start}): save it as UTF-8") from error
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{file} cannot be read: {reason}") from error


def _parquet(path: Path) -> Iterator[ForeignRow]:
    number = 0
    for batch in pq.ParquetFile(path).iter_batches(_BATCH_ROWS):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", {name.strip().lower(): value for name, value in row.items()}


def _csv(path: Path) -> Iterator[ForeignRow]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = max(_DELIMITERS, key=first.count)
        rows = csv.reader(file, delimiter=delimiter)
        header = [name.strip().lower() for name in next(rows, [])]
        number = 1
        while True:
            number += 1
            try:
                values = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"row {number}", f"it cannot be read: {error}"
                continue
            if len(values) > len(header):
                yield f"row {number}", f"it has {len(values)} cells, and the header {len(header)}"
            elif values:
                yield f"row {number}", dict(zip(header, values, strict=False))


def _json_lines(path: Path) -> Iterator[ForeignRow]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"row {number}", f"it is no JSON: {error}"
                continue
            if isinstance(row, dict):
                yield f"row {number}", {name.strip().lower(): value for name, value in row.items()}
            else:
                yield f"row {number}", "it is no JSON object"
