"""Write the report of copies, and the list of passages to leave out."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from malmm.pipeline.duplicates.copies import Copies
from malmm.pipeline.duplicates.groups import LeftOut
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["LEFT_OUT", "write_left_out", "write_report"]

#: A row for each span to leave out. The list is a manifest: it has the column ``uri``.
LEFT_OUT = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("whole", pa.bool_(), nullable=False),
        pa.field("copy_of", pa.string(), nullable=False),
    ]
)


def write_report(found: Copies, path: Path) -> None:
    """Write the report as JSON or, if the name ends so, as Parquet. Raises ConfigError."""
    try:
        if path.suffix.lower() == ".parquet":
            pq.write_table(found.table(), path)
        else:
            path.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error


def write_left_out(found: Copies, left_out: Sequence[LeftOut], path: Path) -> None:
    """Write the list as JSON lines, CSV or Parquet, by the name's end. Raises ConfigError."""
    rows = [
        {
            "uri": found.videos[each.video].uri,
            "video_id": found.videos[each.video].video_id,
            "start_s": start_s,
            "end_s": end_s,
            "whole": each.whole,
            "copy_of": found.videos[each.copy_of[0]].uri,
        }
        for each in left_out
        for start_s, end_s in each.spans
    ]
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows, schema=LEFT_OUT), path)
        elif kind == ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, LEFT_OUT.names)
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
