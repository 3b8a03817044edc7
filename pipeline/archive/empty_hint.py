"""Say what to run when an archive holds no video yet."""

from __future__ import annotations

import shlex

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import read_runs

__all__ = ["empty_hint"]


def empty_hint(archive: ArchiveReader) -> str | None:
    """A sentence that says what to run so that an archive can be searched; None where it has segments.

    Of several archives read as one, the sentence names the first. Raises ArchiveError.
    """
    if archive.count("segments"):
        return None
    each = archive.archives
    first = each[0].root
    named = f"--archive {shlex.quote(first)}"
    empty = f"{first} is empty" if len(each) == 1 else f"all {len(each)} archives are empty"
    if any(run.status == "running" for reader in each for run in read_runs(reader.root)):
        return f"{empty} so far, a run is at work: `malmm status {named}` shows how far it is"
    failed = sum(len(reader.failed_videos()) for reader in each)
    if failed:
        files = "1 file" if failed == 1 else f"{failed} files"
        return f"{empty}, and {files} failed: `malmm failures {named}` says why"
    return f"{empty}: run `malmm index VIDEOS {named}`"
