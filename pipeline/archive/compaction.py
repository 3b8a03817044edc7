"""Compaction of an archive's tables: few files, few versions.

Every commit adds a fragment and a version to each table it touches. Every version's manifest lists all fragments, so
without compaction a commit costs more the longer a run goes on. A killed run also leaves files that no version
references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

import fsspec
import lance
from lance.optimize import Compaction, CompactionTask, RewriteResult

from malmm.pipeline.archive.fencing import forget_old_versions
from malmm.pipeline.archive.location import lance_errors

__all__ = [
    "FILE_BYTES",
    "Rewrite",
    "compact_dataset",
    "compaction_options",
    "remove_files",
    "small_fragments",
    "unnamed_files",
]

FILE_BYTES = 1 << 29
"""Target file size of compaction. Files that have reached it are not rewritten."""

_BATCH_BYTES = 1 << 25
_MAX_ROWS = 1 << 20
_ALL = 1 << 31

Rewrite = Callable[[Sequence[CompactionTask]], Iterable[RewriteResult]]
"""Runs compaction tasks, for example on workers. Files of a task whose result is missing stay as they are."""


def compact_dataset(
    dataset: lance.LanceDataset, keep_versions: timedelta, rewrite: Rewrite | None = None
) -> tuple[int, int]:
    """Merge a table's small files, drop deleted rows, and delete versions older than ``keep_versions``.

    Returns the number of fragments before and after. Without ``rewrite`` this process does the work. Uncommitted files
    stay for a week (Lance's default), since a worker may be about to return their receipt; ``unnamed_files`` finds them
    when no worker is. Raises Lance's exceptions: call it within ``lance_errors``.
    """
    before = len(dataset.get_fragments())
    options = compaction_options(dataset)
    tasks = Compaction.plan(dataset, options).tasks
    if tasks:
        results = list(rewrite(tasks) if rewrite else (task.execute(dataset) for task in tasks))
        if results:
            Compaction.commit(dataset, results, options)
    forget_old_versions(dataset, keep_versions)
    return before, len(dataset.get_fragments())


def small_fragments(dataset: lance.LanceDataset) -> int:
    """Number of fragments smaller than compaction's target size."""
    wanted = compaction_options(dataset)["target_rows_per_fragment"]
    return sum(fragment.physical_rows < wanted for fragment in dataset.get_fragments())


def unnamed_files(dataset: lance.LanceDataset, archive_uri: str) -> list[str]:
    """Names of the table's data files that no version references: written, but not committed (yet).

    Lists the table's files and reads all versions that are kept. Raises ArchiveError.
    """
    with lance_errors(archive_uri, "list the files of"):
        found = dataset.explain_cleanup_old_versions(
            retain_versions=_ALL, delete_unverified=True, include_files=True, max_files=_ALL
        )
    files = [PurePosixPath(file.path) for file in found.candidate_files if file.unverified]
    return sorted(file.name for file in files if file.parent.name == "data")


def remove_files(table: str, names: Sequence[str]) -> int:
    """Delete data files of the table at this address and return how many. No version may ever reference them.

    Lance's own clean-up decides by itself what to delete, and would not notice a writer that took over meanwhile.
    Returns 0 if fsspec cannot open the store or fails: files that stay cost storage and do no other harm.
    """
    try:
        filesystem, folder = fsspec.core.url_to_fs(f"{table}/data")
        filesystem.rm([f"{folder}/{name}" for name in names])
    except (ImportError, OSError, ValueError):
        return 0
    return len(names)


def compaction_options(dataset: lance.LanceDataset) -> dict[str, Any]:
    """Options of Lance's compaction that keep its memory bounded, whatever the size of a row."""
    fragments = dataset.get_fragments()
    rows = sum(fragment.physical_rows for fragment in fragments)
    size = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.data_files())
    row_bytes = max(1, size // rows) if rows else 1
    # Lance's defaults count rows, a million a file and 8192 a batch: 8 GB of memory at a megabyte a row.
    return {
        "target_rows_per_fragment": min(_MAX_ROWS, max(1, FILE_BYTES // row_bytes)),
        "batch_size": min(8192, max(1, _BATCH_BYTES // row_bytes)),
        "num_threads": 1,
    }
