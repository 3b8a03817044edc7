"""Selection of an archive's videos by id, URI, file name or glob, by time of indexing, and by a SQL condition."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.filters import scope_of, videos_within
from malmm.pipeline.archive.location import absolute
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["one_video", "parse_time", "select_videos"]


def one_video(videos: pa.Table, wanted: str) -> dict[str, Any]:
    """The row of ``videos`` with this id, URI or file name. Raises ConfigError if none or several match."""
    found = _Names(videos).named(wanted)
    if len(found) == 1:
        return dict(videos.slice(found[0], 1).to_pylist()[0])
    if found:
        ids = ", ".join(videos["video_id"].take(pa.array(found)).to_pylist())
        raise ConfigError(f"{len(found)} videos are called {wanted!r}: name one by its id ({ids})")
    raise ConfigError(f"the archive holds no video {wanted!r}: `malmm show --archive …` lists what it holds")


def select_videos(
    archive: ArchiveReader,
    names: Sequence[str] = (),
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    where: str | None = None,
    condition: str | None = None,
) -> pa.Table:
    """Rows of ``videos`` that match all criteria, ordered by URI.

    ``names`` are ids, URIs, file names or globs (``*``, ``?``) over URIs and file names; a video matches if any of them
    does. ``since`` and ``until`` limit the time of indexing, [since, until). ``where`` is a filter (``filters``):
    videos with a moment that passes it. ``condition`` is a SQL condition over the table's columns, or such a filter.
    Raises ConfigError if a name matches no video, or a condition or filter does not parse.
    """
    table = _meeting(archive, condition) if condition else archive.videos()
    if names:
        known = _Names(table)
        wanted: set[int] = set()
        for name in names:
            found = known.named(name) or known.globbed(name)
            if not found:
                raise ConfigError(
                    f"the archive holds no video {name!r}: `malmm show --archive …` lists what it holds"
                )
            wanted.update(found)
        table = table.take(pa.array(sorted(wanted), pa.int64()))
    if where is not None:
        left = videos_within(archive, scope_of(archive, where))
        table = table.filter(pc.is_in(table["video_id"], pa.array(sorted(left), pa.string())))
    kind = table.schema.field("indexed_at").type
    if since is not None:
        table = table.filter(pc.greater_equal(table["indexed_at"], pa.scalar(since, kind)))
    if until is not None:
        table = table.filter(pc.less(table["indexed_at"], pa.scalar(until, kind)))
    return table


def _meeting(archive: ArchiveReader, condition: str) -> pa.Table:
    """Rows of videos that meet a SQL condition or, if it is not one, pass a filter."""
    try:
        return archive.videos_where(condition)
    except ConfigError as error:
        try:
            return select_videos(archive, where=condition)
        except ConfigError:
            raise error from None


def parse_time(option: str, text: str) -> datetime:
    """Parse a date or a date and time, in UTC unless it names an offset. Raises ConfigError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} {text!r}: write a date such as 2026-03-01 or 2026-03-01T12:30"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


class _Names:
    """Matches names against the videos of a table. Returns row numbers."""

    def __init__(self, videos: pa.Table) -> None:
        self._ids: list[str] = videos["video_id"].to_pylist()
        self._uris: list[str] = videos["uri"].to_pylist()

    def named(self, wanted: str) -> list[int]:
        """Videos with this id or URI. If no video matches, try the path, then the file name."""
        place = absolute(wanted)
        tests: tuple[Callable[[str, str], bool], ...] = (
            lambda video, uri: wanted in (video, uri),
            lambda video, uri: place == uri,
            lambda video, uri: uri.rstrip("/").rpartition("/")[2] == wanted,
        )
        for fits in tests:
            if found := self._where(fits):
                return found
        return []

    def globbed(self, pattern: str) -> list[int]:
        """Videos whose URI or file name matches a glob."""
        address, path = _matcher(pattern), _matcher(absolute(pattern))
        return self._where(
            lambda video, uri: bool(address(uri) or path(uri) or address(uri.rstrip("/").rpartition("/")[2]))
        )

    def _where(self, fits: Callable[[str, str], bool]) -> list[int]:
        return [place for place, each in enumerate(zip(self._ids, self._uris, strict=True)) if fits(*each)]


def _matcher(pattern: str) -> Callable[[str], Any]:
    return re.compile(fnmatch.translate(pattern)).match
