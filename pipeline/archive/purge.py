"""Purge: leave nothing of deleted rows in an archive's files, and look whether anything is left.

Lance deletes rows by marking them. Their bytes stay in data files, in search indexes and in all older versions of a
table until the files are written anew and the old ones deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import timedelta
from typing import IO

import fsspec
import lance
from lance.optimize import Compaction

from malmm.pipeline.archive.compaction import compaction_options
from malmm.pipeline.archive.fencing import forget_old_versions
from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.search_indexes import remake_indexes
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter

__all__ = ["PURGED_TABLES", "files_with", "purge_tables", "rewrite_and_forget", "versions_with"]

PURGED_TABLES = ("memories", "annotations", "segments", "videos", "failures", "passes")
"""Tables that hold anything of a video."""

_PIECE_BYTES = 1 << 22


def purge_tables(
    tables: TableReader, writer: TableWriter, *, tell: Callable[[str], None] = lambda what: None
) -> None:
    """Write anew all files of an archive's tables that hold deleted rows, remake its indexes, delete old versions.

    Whoever reads an old version meanwhile gets an error and opens the table again. Raises ArchiveError, and
    ArchiveBusy.
    """
    there = [name for name in PURGED_TABLES if tables.has(name)]
    for name in there:
        tell(name)
        with writer.changing(name, "purge") as dataset:
            _rewrite(dataset)
    remake_indexes(tables.uri, writer, tell=tell)
    for name in there:
        with writer.changing(name, "purge") as dataset:
            forget_old_versions(dataset, timedelta(0))


def rewrite_and_forget(dataset: lance.LanceDataset) -> None:
    """Write anew the files of one table that hold deleted rows, and delete its old versions."""
    _rewrite(dataset)
    forget_old_versions(dataset, timedelta(0))


def _rewrite(dataset: lance.LanceDataset) -> None:
    options = compaction_options(dataset) | {
        "materialize_deletions": True,
        "materialize_deletions_threshold": 0.0,
    }
    results = [task.execute(dataset) for task in Compaction.plan(dataset, options).tasks]
    if results:
        Compaction.commit(dataset, results, options)


def versions_with(
    tables: TableReader, video_ids: Iterable[str], names: Iterable[str] = PURGED_TABLES
) -> list[str]:
    """Where rows of videos can still be read: ``table NAME, version N``, over all versions that are kept."""
    ids, found = list(video_ids), []
    for name in names:
        latest = open_dataset(tables.uri, name)
        if latest is None:
            continue
        with lance_errors(tables.uri, f"read old versions of table {name!r} of"):
            for version in latest.versions():
                dataset = latest.checkout_version(version["version"])
                if any(dataset.count_rows(filter=part) for part in is_in("video_id", ids)):
                    found.append(f"table {name}, version {version['version']}")
    return found


def files_with(root: str, needles: Collection[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the archive's files that hold any of the byte strings, once for each that a file holds.

    Raises OSError if a file cannot be read. A file that is deleted meanwhile holds none.
    """
    wanted = {needle for needle in needles if needle}
    if not wanted:
        return
    filesystem, folder = fsspec.core.url_to_fs(root)
    for path in sorted(filesystem.find(folder)):
        try:
            with filesystem.open(path, "rb") as file:
                found = _found(wanted, file)
        except FileNotFoundError:
            continue
        yield from ((str(path), needle) for needle in sorted(found))


def _found(needles: Collection[bytes], file: IO[bytes]) -> set[bytes]:
    overlap = max(map(len, needles)) - 1
    found: set[bytes] = set()
    before = b""
    while piece := file.read(_PIECE_BYTES):
        window = before + piece
        found |= {needle for needle in needles if needle not in found and needle in window}
        before = window[-overlap:] if overlap else b""
    return found
