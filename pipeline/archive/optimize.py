"""Optimize an archive: merge small files, delete old versions, update indexes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from malmm.pipeline.archive.search_indexes import IndexState, index_states
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import OptimizeConfig
from malmm.pipeline.schema.exit_codes import EXIT_OK
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["OptimizeReport", "optimize"]


@dataclass(frozen=True)
class OptimizeReport:
    """Result: the number of ``files`` before and after, of each compacted table, and all indexes."""

    archive: str
    files: Mapping[str, tuple[int, int]]
    indexes: tuple[IndexState, ...]
    elapsed_s: float
    exit_code: int = EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "archive": self.archive,
            "files": {
                name: {"before": before, "after": after} for name, (before, after) in self.files.items()
            },
            "indexes": [vars(state) for state in self.indexes],
            "elapsed_s": self.elapsed_s,
            "exit_code": self.exit_code,
        }


def optimize(config: OptimizeConfig, *, on_progress: OnProgress | None = None) -> OptimizeReport:
    """Merge small files and update all indexes, in this process, without Ray.

    Raises ArchiveError if the archive cannot be written, and ArchiveBusy if another writer holds it.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    archive = Archive.open(config.archive)
    with archive.held():
        tell(Progress("tidying"))
        files = archive.compact(at_least=2)
        archive.update_indexes(at_once=True, tell=lambda what: tell(Progress("building indexes")))
    return OptimizeReport(archive.root, files, tuple(index_states(archive.uri)), time.monotonic() - began)
