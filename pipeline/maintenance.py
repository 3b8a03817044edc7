"""Keeping an archive's tables quick: few files, few versions.

Every commit adds a fragment and a version to each table it touches, and every version's manifest lists
every fragment, so that without compaction a commit's cost grows with the run's length.
"""

from __future__ import annotations

from datetime import timedelta

import lance

from malmm.pipeline.location import lance_errors

__all__ = ["FILE_BYTES", "compact_dataset"]

FILE_BYTES = 1 << 29
"""The size of file that compaction aims at. Files that have reached it are not rewritten again."""

_BATCH_BYTES = 1 << 25
_MAX_ROWS = 1 << 20


def compact_dataset(
    dataset: lance.LanceDataset, archive_uri: str, keep_versions: timedelta
) -> tuple[int, int]:
    """Merge a table's small files, drop deleted rows, and forget versions older than ``keep_versions``.

    Returns the number of fragments before and after. Files that were written but never committed stay for
    Lance's own week, since a worker may be about to hand in their receipt.
    """
    with lance_errors(archive_uri, "compact"):
        fragments = dataset.get_fragments()
        rows = sum(fragment.physical_rows for fragment in fragments)
        size = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.data_files())
        row_bytes = max(1, size // rows) if rows else 1
        # Lance's defaults count rows, a million a file and 8192 a batch: 8 GB of memory at a megabyte a row.
        dataset.optimize.compact_files(
            target_rows_per_fragment=min(_MAX_ROWS, max(1, FILE_BYTES // row_bytes)),
            batch_size=min(8192, max(1, _BATCH_BYTES // row_bytes)),
            num_threads=1,
        )
        dataset.cleanup_old_versions(older_than=keep_versions)
        return len(fragments), len(dataset.get_fragments())
