"""Compare the rows of two archives: what a run that was killed and resumed lost, duplicated or changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from malmm.pipeline import ArchiveReader
from malmm.pipeline.schema.errors import ArchiveError

__all__ = ["KEYS", "Flaws", "compared", "count", "rows_of"]

KEYS = {
    "videos": "video_id",
    "segments": "segment_id",
    "memories": "memory_id",
    "annotations": "annotation_id",
    "failures": "failure_id",
}
# Columns with the times of work, which differ between equal runs.
_TIMES = {"indexed_at", "created_at", "first_seen", "last_seen"}


@dataclass(frozen=True)
class Flaws:
    """Numbers of wrong rows in an archive; ``left`` are processes that still ran a minute after a kill."""

    lost: int = 0
    twice: int = 0
    changed: int = 0
    strange: int = 0
    orphans: int = 0
    left: int = 0

    def __add__(self, other: Flaws) -> Flaws:
        return Flaws(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    @property
    def any(self) -> bool:
        """Whether there is any flaw."""
        return self != Flaws()


def count(archive: str, table: str) -> int:
    """Rows of a table; 0 while there is no archive."""
    try:
        return ArchiveReader.open(archive).count(table)
    except ArchiveError:
        return 0


def rows_of(archive: ArchiveReader) -> dict[str, Counter[tuple[str, str]]]:
    """The rows of every table as (key, content without times), counted; and the orphans among them."""
    found = {}
    for name, key in KEYS.items():
        dataset = archive.table(name).to_lance()
        columns = [column for column in dataset.schema.names if column not in _TIMES and column != "tokens"]
        rows = dataset.to_table(columns=columns).to_pylist()
        found[name] = Counter((row[key], repr(row)) for row in rows)
    ids = sorted(archive.completed_segments())
    found["tokens"] = Counter(
        (key, tokens.tobytes().hex() + sizes.tobytes().hex())
        for key, tokens, sizes in archive.memory_tokens(ids)
    )
    done = {key for key, _ in found["segments"]}
    videos = {key for key, _ in found["videos"]}
    orphans: Counter[tuple[str, str]] = Counter()
    for name in ("memories", "annotations"):
        owners = archive.table(name).to_lance().to_table(columns=["segment_id", "video_id"]).to_pylist()
        for row in owners:
            if (row["segment_id"] not in done) if row["segment_id"] else (row["video_id"] not in videos):
                orphans[name, row["segment_id"] or row["video_id"]] += 1
    return found | {"orphans": orphans}


def compared(found: dict[str, Any], expected: dict[str, Any]) -> Flaws:
    """The differences between the rows of two archives, both from ``rows_of``."""
    flaws = Flaws(orphans=found["orphans"].total())
    for name in (*KEYS, "tokens"):
        have, want = (Counter(key for key, _ in rows[name].elements()) for rows in (found, expected))
        same = {key for key, _ in found[name].keys() & expected[name].keys()}
        flaws += Flaws(
            lost=len(want.keys() - have.keys()),
            twice=(have - Counter(set(have))).total(),
            changed=len((want.keys() & have.keys()) - same),
            strange=len(have.keys() - want.keys()),
        )
    return flaws
