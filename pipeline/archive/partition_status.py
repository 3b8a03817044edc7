"""Status of all partitions as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from malmm.pipeline.archive.empty_hint import empty_hint
from malmm.pipeline.archive.joined import JoinedArchive
from malmm.pipeline.archive.partitions import Partitioned
from malmm.pipeline.archive.status import Status, status

__all__ = ["PartitionsStatus", "status_of_partitions"]


@dataclass(frozen=True)
class PartitionsStatus:
    """Status of partitions at one moment. ``each`` has those that can be read, by name, in order.

    ``videos`` counts each video once, also if it is in several partitions. ``hint`` says what to run if there is none.
    """

    fixed: Partitioned
    videos: int
    each: Mapping[str, Status]
    hint: str | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the keys of ``Status`` with the sums of all partitions, and ``partitions`` with each one's own."""
        parts = {name: part.to_dict() for name, part in self.each.items()}
        return {
            "archive": self.fixed.address,
            "number": self.fixed.number,
            "model": self.fixed.recipe.model,
            "videos": {
                "indexed": self.videos,
                "pending": sum(part.pending for part in self.each.values()),
                "failed": sum(part.failed for part in self.each.values()),
            },
            "video_s": sum(part.video_s for part in self.each.values()),
            "failures_by_kind": _summed(part["failures_by_kind"] for part in parts.values()),
            "rows": _summed(part["rows"] for part in parts.values()),
            "rows_unindexed": sum(part["rows_unindexed"] for part in parts.values()),
            "warnings": [f"{name}: {said}" for name, part in parts.items() for said in part["warnings"]],
            "bytes": sum(table.bytes for part in self.each.values() for table in part.tables.values()),
            "hint": self.hint,
            "running": [name for name, part in self.each.items() if part.running is not None],
            "partitions": [{"name": name} | part for name, part in parts.items()],
        }


def status_of_partitions(archive: JoinedArchive, fixed: Partitioned) -> PartitionsStatus:
    """Read the status of all partitions that can be read. Raises ArchiveError."""
    members = archive.members.now()
    found = archive.members.each(lambda member: status(member.reader), members)
    return PartitionsStatus(
        fixed,
        archive.count("videos"),
        {member.name: part for member, part in zip(members, found, strict=True)},
        empty_hint(archive),
    )


def _summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)
