"""Fencing: a writer that another one overtook while it slept changes no table any more.

A writer's fencing token is a number that comes with its lease and is greater than those of all writers before it. A
writer that takes over from one that fell silent puts its token into every table and then commits a merge of no columns,
which Lance lets conflict with every commit to an earlier version, whatever that commit does. So of the writer that went
silent:

- a commit that it began before is refused by Lance, since the merge came between;
- a commit that it begins later is refused by ``check_token``, since the version it would build on names the new token.

Lance looks for conflicts in those later versions that still exist. ``forget_old_versions`` therefore leaves a merge
behind wherever it deletes versions, and no other code may delete any.
"""

from __future__ import annotations

from datetime import timedelta

import lance
from lance.commit import CommitConflictError

from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError

__all__ = ["check_token", "forget_old_versions", "overtaken", "raise_fence", "refuse_earlier_commits"]

_KEY = "malmm.fencing_token"
# A writer that was overtaken can commit once more between a new token and the merge that follows it.
_TRIES = 16


def overtaken(archive_uri: str) -> ArchiveBusy:
    """The error of a writer that finds another in its place."""
    return ArchiveBusy(
        f"{archive_uri} was taken over by another writer while this one was silent: run again to go on with what is "
        "missing",
        uri=archive_uri,
    )


def check_token(dataset: lance.LanceDataset, token: int, archive_uri: str) -> None:
    """Raise ArchiveBusy where a table, at the version that is about to be built on, names a later writer's token."""
    if int(dataset.config().get(_KEY, "0")) > token:
        raise overtaken(archive_uri)


def raise_fence(archive_uri: str, name: str, token: int) -> None:
    """Let nobody write a table any more whose token is smaller. A table that is not there needs no fence.

    Raises ArchiveBusy where a still later writer has taken over, and ArchiveError.
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
    """Have Lance refuse every commit to this table that was begun at an earlier version. Changes no row.

    Returns the table at the new version. Raises CommitConflictError where it has changed since ``dataset``'s.
    """
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    merge = lance.LanceOperation.Merge(fragments, dataset.lance_schema)
    return lance.LanceDataset.commit(dataset, merge, read_version=dataset.version)


def forget_old_versions(dataset: lance.LanceDataset, older_than: timedelta) -> None:
    """Delete a table's old versions, and the files that only they name. ``dataset`` is at the latest version.

    Deletes nothing when another writer commits meanwhile.
    """
    try:
        latest = refuse_earlier_commits(dataset)
    except CommitConflictError:
        return
    latest.cleanup_old_versions(older_than=older_than)
