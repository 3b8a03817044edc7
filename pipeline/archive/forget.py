"""Forget videos: delete all that an archive holds of them, prove it, and keep any run from indexing them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.lease_table import open_writer
from malmm.pipeline.archive.location import absolute, open_dataset
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.purge import (
    PURGED_TABLES,
    files_with,
    purge_tables,
    rewrite_and_forget,
    versions_with,
)
from malmm.pipeline.archive.run_history import RUNS_TABLE
from malmm.pipeline.archive.store_check import deleted_is_kept
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.tombstones import Tombstones, forgotten_videos
from malmm.pipeline.archive.video_selection import one_video
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_OK
from malmm.pipeline.schema.ids import video_id

__all__ = ["ForgetConfig", "ForgetReport", "allow_again", "forget", "forget_in", "purge_forgotten"]

_PLACE = "malmm.place:"
_MOST_PICTURES, _MOST_TEXTS = 16, 64
_SHORTEST_TEXT = 12
_FORGOTTEN = "(forgotten)"
_STRINGS = (
    ("videos", ["uri", "metadata"]),
    ("failures", ["uri", "message"]),
    ("annotations", ["text", "origin"]),
)


@dataclass(frozen=True)
class ForgetConfig:
    """Which videos to forget, by ids, addresses or file names. With ``now`` also in files and old versions."""

    archive: str
    videos: tuple[str, ...]
    now: bool = False

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if not self.videos:
            raise ConfigError("no video: name one by its address, file name or id")


@dataclass
class ForgetReport:
    """Result: the ids of the videos, the rows deleted by table, and whether files and old versions were ``purged`` too.

    ``left`` are places in which something of them was found after that, which should be none. ``kept`` is a sentence
    where the store may keep what was deleted, which no search of the archive finds.
    """

    archive: str
    videos: list[str]
    rows: dict[str, int] = field(default_factory=dict)
    purged: bool = False
    left: list[str] = field(default_factory=list)
    kept: str = ""

    @property
    def exit_code(self) -> int:
        """0, or 1 if something of the videos is left."""
        return EXIT_FAILED if self.left else EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"exit_code": self.exit_code}


def forget(config: ForgetConfig, *, tell: Callable[[str], None] = lambda what: None) -> ForgetReport:
    """Delete videos with their texts, memory, vectors and failures, and record their ids, so that no run takes them in.

    Without ``now``, files and old versions keep their bytes until the next ``optimize``. Killed in the middle, the same
    call goes on. Raises ConfigError for a name that is no video of the archive, ArchiveError, and ArchiveBusy.
    """
    archive = Archive.open(config.archive)
    return _forget(archive, _ids([archive], config.videos), config.now, tell)


def forget_in(
    archives: Sequence[str],
    videos: Sequence[str],
    *,
    now: bool = False,
    tell: Callable[[str], None] = lambda what: None,
) -> list[ForgetReport]:
    """Forget videos in several archives: in each that has them, and for the runs of all, as ``forget`` does in one.

    An archive that never had a video keeps its id, too. Raises ConfigError for a name that is a video of none of them.
    """
    opened = [Archive.open(address) for address in archives]
    ids = _ids(opened, videos)
    return [_forget(archive, ids, now, tell) for archive in opened]


def _forget(archive: Archive, ids: list[str], now: bool, tell: Callable[[str], None]) -> ForgetReport:
    report = ForgetReport(archive.root, ids)
    with archive.held():
        stones = _tombstones(archive)
        begun = set(ids) & set(stones.unpurged())
        # First, so that a run which follows a killed one does not index them again.
        stones.raise_over(ids)
        addresses, names = _names(archive, ids, _STRINGS[:1]), _names(archive, ids, _STRINGS)
        # A talk has a thousand sentences, and each costs time in every file: the longest are the rarest.
        longest = sorted(names, key=len, reverse=True)[:_MOST_TEXTS]
        needles = {name.encode() for name in {*addresses, *longest}}
        if now:
            needles |= _pictures(archive, ids)
        # While the rows are there, which say what to look for: if killed before, the next call finds it again.
        _scrub_runs(archive, names)
        for tables, writer in _generations(archive):
            for name in PURGED_TABLES:
                if tables.has(name):
                    deleted = writer.delete(name, "video_id", ids)
                    report.rows[name] = report.rows.get(name, 0) + deleted
        tables, writer = _at_root(archive)
        if tables.has("reviews"):
            report.rows["reviews"] = writer.delete("reviews", "video_id", ids)
        if now:
            report.purged = True
            report.kept = deleted_is_kept(archive.root)
            if begun or any(report.rows.values()) or _had(archive, ids):
                report.left = _purge(archive, stones, ids, needles, tell)
            else:
                stones.mark_purged(ids)
    return report


def _had(archive: Archive, ids: list[str]) -> bool:
    """Whether any version of a table may hold rows of videos."""
    try:
        return any(versions_with(tables, ids) for tables, _ in _generations(archive))
    except ArchiveError:
        # Lance cannot search versions whose fragments do not say how many rows they have.
        return True


def purge_forgotten(archive: Archive, *, tell: Callable[[str], None] = lambda what: None) -> int:
    """Purge what files and old versions still hold of forgotten videos; returns how many videos that were.

    Call it while the archive is held.
    """
    stones = _tombstones(archive)
    ids = stones.unpurged()
    if ids:
        _purge(archive, stones, ids, set(), tell)
    return len(ids)


def allow_again(archives: Sequence[str], videos: Sequence[str]) -> int:
    """Let the next runs of archives index forgotten videos again; returns how many videos had been forgotten.

    They are named by ids or addresses: the archives do not know their file names any more.
    """
    named = {key for name in videos for key in _possible_ids(name)}
    lifted: set[str] = set()
    for archive in [Archive.open(address) for address in archives]:
        with archive.held():
            gone = named & forgotten_videos(archive.root)
            _tombstones(archive).lift(gone)
            lifted |= gone
    return len(lifted)


def _purge(
    archive: Archive, stones: Tombstones, ids: list[str], needles: set[bytes], tell: Callable[[str], None]
) -> list[str]:
    """Purge all generations; returns where something is left."""
    archive.sweep()
    left = []
    for tables, writer in _generations(archive):
        purge_tables(tables, writer, tell=tell)
        left += [f"{tables.uri}: {place}" for place in versions_with(tables, ids)]
    tables, writer = _at_root(archive)
    for name in (RUNS_TABLE, "reviews"):
        if tables.has(name):
            with writer.changing(name, "purge") as dataset:
                rewrite_and_forget(dataset)
    if tables.has("reviews"):
        left += [f"{tables.uri}: {place}" for place in versions_with(tables, ids, ("reviews",))]
    tell("files")
    left += [path for path, needle in files_with(archive.root, needles) if not _is_of_others(archive, needle)]
    if not left:
        stones.mark_purged(ids)
    return left


def _ids(archives: Sequence[Archive], names: Sequence[str]) -> list[str]:
    """Ids of the videos that names mean in any of the archives."""
    addresses = {key: uri for archive in archives for key, uri in archive.addresses().items()}
    known = pa.table({"video_id": list(addresses), "uri": list(addresses.values())})
    gone = {key for archive in archives for key in forgotten_videos(archive.root)}
    found = []
    for name in names:
        before = [key for key in _possible_ids(name) if key in gone]
        # An unfinished video has segments and no address.
        segments = (
            archive.tables.ids("segments", "video_id", _of(name)) for archive in archives if len(name) == 24
        )
        begun = [name] if any(segments) else []
        found += before or begun or [one_video(known, name)["video_id"]]
    return list(dict.fromkeys(found))


def _of(name: str) -> list[str]:
    try:
        return list(is_in("video_id", [name]))
    except ConfigError:
        return []


def _possible_ids(name: str) -> tuple[str, ...]:
    return name, video_id(name), video_id(absolute(name))


def _at_root(archive: Archive) -> tuple[TableReader, TableWriter]:
    """The tables that all recipes share."""
    tables = TableReader(archive.root)
    writer = TableWriter(tables)
    writer.lease = archive.changes.lease
    return tables, writer


def _tombstones(archive: Archive) -> Tombstones:
    return Tombstones(*_at_root(archive))


def _generations(archive: Archive) -> Iterator[tuple[TableReader, TableWriter]]:
    """Readers and writers of the tables of all recipes, with those that no reader sees yet."""
    root = archive.root
    places = [key.removeprefix(_PLACE) for key in open_writer(root).config() if key.startswith(_PLACE)]
    for address in dict.fromkeys([archive.uri, root, *(f"{root}/{place}" for place in places)]):
        if open_dataset(address, "videos") is not None:
            tables = TableReader(address)
            writer = TableWriter(tables)
            writer.lease = archive.changes.lease
            yield tables, writer


def _names(archive: Archive, ids: list[str], columns_of: Sequence[tuple[str, list[str]]]) -> set[str]:
    """Strings by which files that hold anything of the videos are known: addresses and texts."""
    filters = list(is_in("video_id", ids))
    return {
        value
        for name, columns in columns_of
        for row in archive.tables.rows(name, filters, columns).to_pylist()
        for value in row.values()
        if value and len(value) >= _SHORTEST_TEXT
    }


def _pictures(archive: Archive, ids: list[str]) -> set[bytes]:
    """Some of the videos' thumbnails."""
    found: set[bytes] = set()
    for batch in archive.tables.batches("memories", ["thumbnail"], is_in("video_id", ids)):
        found |= {picture for picture in batch["thumbnail"].to_pylist() if picture}
        if len(found) > _MOST_PICTURES:
            break
    return found


def _is_of_others(archive: Archive, needle: bytes) -> bool:
    """Whether a row of another video holds the byte string, so that finding it is nothing of the forgotten ones."""
    for name, columns in (*_STRINGS, ("memories", ["thumbnail"])):
        there = [column for column in columns if column in archive.schema(name).names]
        for batch in archive.tables.batches(name, there):
            for column in there:
                for value in batch[column].to_pylist():
                    held = value.encode() if isinstance(value, str) else value
                    if held and needle in held:
                        return True
    return False


def _scrub_runs(archive: Archive, names: set[str]) -> None:
    """Take what names the videos out of the history of runs: sentences of errors."""
    tables, writer = _at_root(archive)
    if not tables.has(RUNS_TABLE):
        return
    rows = tables.rows(RUNS_TABLE)
    changed = []
    for row in rows.to_pylist():
        clean = dict(row)
        for column in ("error", "progress"):
            for name in names:
                if clean[column] and name in clean[column]:
                    clean[column] = clean[column].replace(name, _FORGOTTEN)
        if clean != row:
            changed.append(clean)
    if changed:
        writer.upsert(RUNS_TABLE, "run_id", pa.Table.from_pylist(changed, schema=rows.schema))
