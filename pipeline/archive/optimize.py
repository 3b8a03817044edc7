"""Optimize an archive: merge small files, delete old versions, update indexes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from malmm.pipeline.archive.forget import purge_forgotten
from malmm.pipeline.archive.index_states import IndexState, index_states
from malmm.pipeline.archive.migration import migrate
from malmm.pipeline.archive.vector_index import BuildPieces
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
            "indexes": [state.to_dict() for state in self.indexes],
            "elapsed_s": self.elapsed_s,
            "exit_code": self.exit_code,
        }


def optimize(
    config: OptimizeConfig,
    *,
    on_progress: OnProgress | None = None,
    build_pieces: BuildPieces | None = None,
) -> OptimizeReport:
    """Migrate the archive, merge small files, update all indexes and purge forgotten videos, in this process.

    ``build_pieces`` builds the index of very many vectors on workers. Raises ArchiveError if the archive cannot be
    written, ArchiveBusy if another writer holds it, and what ``build_pieces`` raises.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    archive = Archive.open(config.archive)
    with archive.held():
        tell(Progress("tidying"))
        migrate(archive.changes)
        files = archive.compact(at_least=2)
        archive.update_indexes(
            at_once=True, tell=lambda what: tell(Progress("building indexes")), build_pieces=build_pieces
        )
        purge_forgotten(archive, tell=lambda what: tell(Progress("purging")))
    states = tuple(index_states(archive.tables))
    return OptimizeReport(archive.root, files, states, time.monotonic() - began)
