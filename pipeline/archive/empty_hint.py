"""Say what to run when an archive holds no video yet."""

from __future__ import annotations

import shlex

from malmm.pipeline.archive.partitions import partition_at
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import read_runs

__all__ = ["empty_hint"]


def empty_hint(archive: ArchiveReader) -> str | None:
    """A sentence that says what to run so that an archive can be searched; None where it has segments.

    Of several archives read as one, the sentence names the first, or what the partitions have in common. Raises
    ArchiveError.
    """
    if archive.count("segments"):
        return None
    each = archive.archives
    first = each[0].root
    partition = partition_at(first)
    named = f"--archive {shlex.quote(first if partition is None else partition.parent_of(first))}"
    empty = f"{first} is empty" if len(each) == 1 else f"all {len(each)} archives are empty"
    if any(run.status == "running" for reader in each for run in read_runs(reader.root)):
        return f"{empty} so far, a run is at work: `malmm status {named}` shows how far it is"
    counts = {reader.root: len(reader.failed_videos()) for reader in each}
    failed = sum(counts.values())
    if failed:
        files = "1 file" if failed == 1 else f"{failed} files"
        where = next(root for root, count in counts.items() if count)
        return f"{empty}, and {files} failed: `malmm failures --archive {shlex.quote(where)}` says why"
    divided = "" if partition is None else f" --partitions {partition.number}"
    return f"{empty}: run `malmm index VIDEOS {named}{divided}`"
