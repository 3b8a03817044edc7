"""Runs of many small segments, as processes that tests stop, kill and starve."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ArchiveError
from support.processes import Session

# One segment at a time, so that no batch depends on when its run was stopped.
SETTINGS: dict[str, Any] = {
    "model": "debug",
    "segment_s": 1.0,
    "fps": 4.0,
    "bank_length": 2,
    "max_new_tokens": 4,
    "batch_segments": 1,
}


def start(folder: Path, place: Path, *more: str, notes: Path | None = None, **changes: Any) -> Session:
    """`malmm index` with the settings, with what it says kept in a folder, beside the archive unless told."""
    if notes is None:
        notes = place.parent / f"notes-{time.monotonic_ns()}"
        notes.mkdir()
    options: list[str | Path] = ["index", folder, "--archive", place, "--json", *more]
    for name, value in (SETTINGS | changes).items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    return Session(options, notes)


def committed(place: Path) -> int:
    """Segments that are done; 0 while there is no archive."""
    try:
        return ArchiveReader.open(str(place)).count("segments")
    except ArchiveError:
        return 0


def until_more_is_committed(session: Session, place: Path) -> int:
    """Wait until a run has committed something of its own; gives how many are done then."""
    before = committed(place)
    deadline = time.monotonic() + 150
    while session.alive and time.monotonic() < deadline and committed(place) == before:
        time.sleep(0.05)
    assert session.alive, session.errors.read_text()
    return committed(place)
