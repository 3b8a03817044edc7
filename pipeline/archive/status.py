"""Status of an archive: videos indexed, pending and failed, storage, indexes, and the run that is going on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from malmm.pipeline.archive.empty_hint import empty_hint
from malmm.pipeline.archive.index_states import IndexState, index_states, index_warnings
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord, read_runs

__all__ = ["Status", "TableSize", "status"]

_TABLES = ("videos", "segments", "memories", "annotations", "failures")


@dataclass(frozen=True)
class TableSize:
    """Size of a table's latest version."""

    rows: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Status:
    """Status at one moment. ``video_s`` are seconds of indexed video.

    ``warnings`` are sentences about indexes that make searches slow or worse. ``pending`` is the number of videos that
    are partly stored, or that the current run (else the last run that listed the sources) has left to do, whichever is
    larger. ``running`` is None if nothing runs. ``hint`` says what to run where the archive is empty, else None.
    """

    archive: str
    indexed: int
    pending: int
    failed: int
    video_s: float
    failures_by_kind: Mapping[str, int]
    indexes: tuple[IndexState, ...]
    warnings: tuple[str, ...]
    tables: Mapping[str, TableSize]
    running: RunRecord | None
    last_run: RunRecord | None
    hint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The status for JSON."""
        return {
            "archive": self.archive,
            "videos": {"indexed": self.indexed, "pending": self.pending, "failed": self.failed},
            "video_s": self.video_s,
            "failures_by_kind": dict(self.failures_by_kind),
            "rows": {name: table.rows for name, table in self.tables.items()},
            "rows_unindexed": sum(index.rows_unindexed for index in self.indexes),
            "indexes": [index.to_dict() for index in self.indexes],
            "warnings": list(self.warnings),
            "storage": {
                name: {"files": table.files, "bytes": table.bytes} for name, table in self.tables.items()
            },
            "running": self.running.to_dict() if self.running else None,
            "last_run": self.last_run.to_dict() if self.last_run else None,
            "hint": self.hint,
        }


def status(archive: ArchiveReader) -> Status:
    """Read the status. Reads ids, counts and file sizes, but no memory. Raises ArchiveError."""
    runs = read_runs(archive.root)
    running = next((run for run in runs if run.status == "running"), None)
    over = next((run for run in runs if run.status != "running"), None)
    videos = archive.videos()
    done = set(videos["video_id"].to_pylist())
    begun = set(archive.segments()["video_id"].to_pylist()) - done
    failures = archive.failures().to_pylist()
    indexes = index_states(archive.tables)
    return Status(
        archive=archive.root,
        indexed=len(done),
        pending=max(len(begun), _left(running, runs)),
        failed=len(archive.failed_videos()),
        video_s=sum(videos["duration_s"].to_pylist()),
        failures_by_kind=dict(Counter(row["kind"] for row in failures).most_common()),
        indexes=tuple(indexes),
        warnings=tuple(index_warnings(archive.tables, indexes)),
        tables={name: _size(archive, name) for name in _TABLES},
        running=running,
        last_run=over,
        hint=empty_hint(archive),
    )


def _left(running: RunRecord | None, runs: list[RunRecord]) -> int:
    if running is not None and running.progress.get("stage") in ("probing", "indexing", "waiting"):
        return int(running.progress.get("videos_total", 0) - running.progress.get("videos_done", 0))
    for run in runs:
        if run.status not in ("done", "some_failed") and run.progress.get("videos_total"):
            # It did not reach its end: its last progress says what it had planned.
            looked_at = run.progress["stage"] == "probing"
            done = 0 if looked_at else run.progress.get("videos_done", 0)
            return int(run.progress["videos_total"] - done + run.counts.get("videos_left", 0))
        if "videos_listed" in run.counts:
            return int(run.counts.get("videos_left", 0))
    return 0


def _size(archive: ArchiveReader, name: str) -> TableSize:
    dataset = archive.tables.dataset(name)
    with lance_errors(archive.uri, f"read table {name!r} of"):
        files = [file for fragment in dataset.get_fragments() for file in fragment.data_files()]
        return TableSize(dataset.count_rows(), len(files), sum(file.file_size_bytes or 0 for file in files))
