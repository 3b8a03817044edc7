"""Fencing: a writer that lost its lease while it was paused can change no table any more.

Each lease comes with a fencing token, a number greater than those of all earlier leases. A writer that takes over from
a silent one writes its token into every table, and then commits a merge of no columns. Lance treats that merge as a
conflict with every commit that was begun at an earlier version. So, if the silent writer wakes up:

- Lance refuses a commit that it began before, because of the merge;
- ``check_token`` refuses a commit that it begins later, because the latest version carries the new token.

Lance looks for conflicts only in versions that still exist. So ``forget_old_versions`` commits such a merge whenever it
deletes versions, and no other code may delete any.
"""

from __future__ import annotations

from datetime import timedelta

import lance
from lance.commit import CommitConflictError

from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError

__all__ = [
    "check_token",
    "forget_old_versions",
    "is_fenced",
    "overtaken",
    "raise_fence",
    "refuse_earlier_commits",
]

_KEY = "malmm.fencing_token"
# The fenced writer can still commit between the new token and the merge that follows it; then both are tried again.
_TRIES = 16


def overtaken(archive_uri: str) -> ArchiveBusy:
    """The error that a writer raises when another has taken over its lease."""
    return ArchiveBusy(
        f"{archive_uri} was taken over by another writer while this one was silent: run again to go on with what is "
        "missing",
        uri=archive_uri,
    )


def check_token(dataset: lance.LanceDataset, token: int, archive_uri: str) -> None:
    """Raise ArchiveBusy if the table carries the token of a later writer at the version of ``dataset``."""
    if int(dataset.config().get(_KEY, "0")) > token:
        raise overtaken(archive_uri)


def is_fenced(dataset: lance.LanceDataset) -> bool:
    """Whether any writer has left its token in the table. A table that was just created has none."""
    return _KEY in dataset.config()


def raise_fence(archive_uri: str, name: str, token: int) -> None:
    """Fence off every writer of a table whose token is smaller than ``token``. Does nothing if there is no such table.

    Raises ArchiveBusy if a later writer has taken over, and ArchiveError.
    """
    for _ in range(_TRIES):
        dataset = open_dataset(archive_uri, name)
        if dataset is None:
            return
        check_token(dataset, token, archive_uri)
        try:
            with lance_errors(archive_uri, f"write table {name!r} of"):
                dataset.update_config({_KEY: str(token)})
                refuse_earlier_commits(dataset)
            return
        except ArchiveError as error:
            failed = error
    raise failed


def refuse_earlier_commits(dataset: lance.LanceDataset) -> lance.LanceDataset:
    """Make Lance refuse every commit to this table that was begun at an earlier version. Changes no row.

    Returns the table at the new version. Raises CommitConflictError if the table has changed since ``dataset``.
    """
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    merge = lance.LanceOperation.Merge(fragments, dataset.lance_schema)
    return lance.LanceDataset.commit(dataset, merge, read_version=dataset.version)


def forget_old_versions(dataset: lance.LanceDataset, older_than: timedelta) -> None:
    """Delete a table's old versions, and the files that only they reference. ``dataset`` is at the latest version.

    Deletes nothing if another writer commits meanwhile.
    """
    try:
        latest = refuse_earlier_commits(dataset)
    except CommitConflictError:
        return
    latest.cleanup_old_versions(older_than=older_than)
