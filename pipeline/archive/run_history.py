"""The table ``runs``: what ran on an archive, when, how it ended, and the progress of a run that is going on.

The table lies at the archive's own address, beside ``recipes``, and is created when the first run is recorded. A run
writes its row at its start, every few seconds, and at its end. A killed run cannot write its end: readers call it lost
once its process is gone or has been silent for long.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import lance
import pyarrow as pa

from malmm.pipeline.archive.compaction import compact_dataset, small_fragments
from malmm.pipeline.archive.fencing import forget_old_versions
from malmm.pipeline.archive.location import ensure_dataset, lance_errors, open_dataset, resolve
from malmm.pipeline.archive.process_identity import is_alive, place, started
from malmm.pipeline.archive.recipes_table import in_force
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import RUNS

__all__ = ["RUNS_TABLE", "STATUSES", "RunRecord", "read_run", "read_runs", "status_of", "write_run"]

RUNS_TABLE = "runs"
STATUSES = ("running", "done", "some_failed", "failed", "refused", "interrupted", "lost")
"""``some_failed``: the job went on without what failed; ``refused``: wrong usage or settings, nothing was done;
``lost``: the run was killed."""

_SILENT_S = 120.0
_MANY_FILES = 24
# A run writes every few seconds, for days: each time is a version of the table.
_VERSIONS_A_CLEANING = 64
_KEEP_VERSIONS = timedelta(minutes=10)
_BY_EXIT_CODE = {0: "done", 2: "refused", 3: "some_failed", 130: "interrupted"}


def status_of(exit_code: int) -> str:
    """The status of a run that ended with this exit code."""
    return _BY_EXIT_CODE.get(exit_code, "failed")


@dataclass(frozen=True)
class RunRecord:
    """One run. ``kinds`` are the kinds of its steps, ``trigger`` is ``command`` or ``schedule``.

    ``scheduled_for`` is the time of the schedule that started it, and ``attempt`` counts, from 1, the tries for that
    time. ``counts`` are numbers by name, summed over all steps; ``progress`` is the last progress; ``samples`` are rows
    of [seconds since the start, stage, segments done, seconds of video done, failures], for a plot.
    """

    job: str
    kinds: tuple[str, ...]
    trigger: str = "command"
    scheduled_for: datetime | None = None
    attempt: int = 1
    run_id: str = field(default_factory=lambda: secrets.token_hex(12))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    status: str = "running"
    exit_code: int | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Sequence[Any]] = ()
    place: str = field(default_factory=place)
    process: str = field(default_factory=lambda: started(os.getpid()))

    @property
    def took_s(self) -> float:
        """Seconds from its start to its end, or to its last update."""
        return ((self.ended or self.updated) - self.started).total_seconds()

    def to_dict(self) -> dict[str, Any]:
        """The run for JSON, without its samples."""
        content = vars(self) | {"took_s": round(self.took_s, 3), "kinds": list(self.kinds)}
        del content["samples"], content["place"], content["process"]
        return content


def write_run(archive_uri: str, run: RunRecord) -> bool:
    """Insert or update the run's row. Returns False if there is no archive yet.

    Raises ArchiveError if the archive cannot be reached or written.
    """
    root = resolve(archive_uri)
    dataset = open_dataset(root, RUNS_TABLE)
    if dataset is None:
        if in_force(root) is None:
            return False
        dataset = _opened(root)
    with lance_errors(root, f"write table {RUNS_TABLE!r} of"):
        merge = dataset.merge_insert("run_id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(_row(run))
        if dataset.version % _VERSIONS_A_CLEANING == 0:
            forget_old_versions(dataset, _KEEP_VERSIONS)
        if run.ended is not None and small_fragments(dataset) >= _MANY_FILES:
            compact_dataset(_opened(root), _KEEP_VERSIONS)
    return True


def read_runs(archive_uri: str, *, job: str | None = None) -> list[RunRecord]:
    """The archive's runs, of one job or of all, latest first. Raises ArchiveError."""
    return [run for run in _read(archive_uri) if job is None or run.job == job]


def read_run(archive_uri: str, run_id: str) -> RunRecord:
    """One run, by its id or the beginning of it. Raises ArchiveError if none or more than one matches."""
    found = [run for run in _read(archive_uri) if run.run_id.startswith(run_id)]
    if len(found) != 1:
        many = f"{len(found)} runs whose ids begin with" if found else "no run"
        raise ArchiveError(
            f"{archive_uri} has {many} {run_id!r}: `malmm runs --archive {archive_uri}` lists them",
            uri=archive_uri,
        )
    return found[0]


def _read(archive_uri: str) -> list[RunRecord]:
    root = resolve(archive_uri)
    dataset = open_dataset(root, RUNS_TABLE)
    if dataset is None:
        return []
    with lance_errors(root, f"read table {RUNS_TABLE!r} of"):
        rows = dataset.to_table().to_pylist()
    try:
        runs = [_run(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{root} is damaged: its table {RUNS_TABLE!r} cannot be read", uri=root) from error
    return sorted(runs, key=lambda run: (run.started, run.run_id), reverse=True)


def _opened(root: str) -> lance.LanceDataset:
    return ensure_dataset(root, RUNS_TABLE, RUNS.empty_table())


def _row(run: RunRecord) -> pa.Table:
    row = vars(run) | {
        "kinds": list(run.kinds),
        "counts": json.dumps(dict(run.counts)),
        "progress": json.dumps(dict(run.progress)),
        "samples": json.dumps([list(sample) for sample in run.samples]),
    }
    return pa.Table.from_pylist([row], schema=RUNS)


def _run(row: dict[str, Any]) -> RunRecord:
    row["kinds"] = tuple(row["kinds"])
    for name in ("counts", "progress", "samples"):
        row[name] = json.loads(row[name])
    run = RunRecord(**row)
    return replace(run, status="lost") if run.status == "running" and _is_gone(run) else run


def _is_gone(run: RunRecord) -> bool:
    alive = is_alive(run.process) if run.place == place() else None
    if alive is not None:
        return not alive
    return (datetime.now(UTC) - run.updated).total_seconds() > _SILENT_S
