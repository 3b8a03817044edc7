"""The table ``failures``: what could not be stored, how often it was tried, and which rows are out of date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import pyarrow as pa

from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.schema.ids import failure_id
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.tables import FAILURES

__all__ = ["record_failures", "stale_failures"]


def record_failures(tables: TableReader, writer: TableWriter, failures: Iterable[Failure]) -> None:
    """Record failed attempts. A failure seen before keeps ``first_seen`` and adds to ``attempts``."""
    attempts: dict[str, list[Failure]] = {}
    for failure in failures:
        key = failure_id(failure.video_id, failure.segment_id, failure.stage)
        attempts.setdefault(key, []).append(failure)
    before = {
        row["failure_id"]: row for row in tables.rows("failures", is_in("failure_id", attempts)).to_pylist()
    }
    now = datetime.now(UTC)
    rows = [
        {
            **vars(tries[-1]),
            "failure_id": key,
            "attempts": len(tries) + (before[key]["attempts"] if key in before else 0),
            "first_seen": before[key]["first_seen"] if key in before else now,
            "last_seen": now,
        }
        for key, tries in attempts.items()
    ]
    writer.upsert("failures", "failure_id", pa.Table.from_pylist(rows, schema=FAILURES))


def stale_failures(tables: TableReader, kept: Mapping[str, Iterable[str]]) -> list[str]:
    """Ids of failures of segments that their video no longer has: the file or its plan has changed since.

    ``kept`` maps each video to its current segments.
    """
    keep = set().union(*kept.values())
    rows = tables.rows("failures", is_in("video_id", kept), ["failure_id", "segment_id"]).to_pylist()
    return [row["failure_id"] for row in rows if row["segment_id"] and row["segment_id"] not in keep]
