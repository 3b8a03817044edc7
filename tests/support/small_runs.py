"""Runs of many small segments, as processes that tests stop, kill and starve."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ArchiveError
from support.held_run import Gate
from support.processes import Session, command
from support.waiting import until

__all__ = ["SETTINGS", "committed", "is_made", "options", "start", "until_more_is_committed"]

# One segment at a time, so that no batch depends on when its run was stopped.
SETTINGS: dict[str, Any] = {
    "model": "debug",
    "segment_s": 1.0,
    "fps": 4.0,
    "bank_length": 2,
    "max_new_tokens": 4,
    "batch_segments": 1,
}


def options(folder: Path, place: Path, *more: str, **changes: Any) -> list[str | Path]:
    """`malmm index` with the settings."""
    found: list[str | Path] = ["index", folder, "--archive", place, "--json", *more]
    for name, value in (SETTINGS | changes).items():
        found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def start(
    folder: Path,
    place: Path,
    *more: str,
    notes: Path | None = None,
    gate: Gate | None = None,
    ray: bool = True,
    **changes: Any,
) -> Session:
    """`malmm index` as a process, behind a gate if told, with what it says kept beside the archive unless told."""
    if notes is None:
        notes = place.parent / f"notes-{time.monotonic_ns()}"
        notes.mkdir()
    given = options(folder, place, *more, **changes)
    return Session(gate.command(*given, ray=ray) if gate is not None else command(*given), notes)


def committed(place: Path) -> int:
    """Segments that are done; 0 while there is no archive."""
    try:
        return ArchiveReader.open(str(place)).count("segments")
    except ArchiveError:
        return 0


def is_made(place: Path) -> bool:
    """Whether there is an archive."""
    try:
        ArchiveReader.open(str(place))
    except ArchiveError:
        return False
    return True


def until_more_is_committed(session: Session, place: Path, before: int | None = None) -> int:
    """Wait until a run has committed more than there was ``before``; gives how many are done then."""
    known = committed(place) if before is None else before
    return until(lambda: found if (found := committed(place)) > known else 0, going=session.ended)
