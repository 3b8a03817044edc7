"""Naming videos of an archive: by id, address, file name or glob, and by when they were indexed."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.location import resolve
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["one_video", "parse_time", "select_videos"]


def one_video(rows: Sequence[dict[str, Any]], wanted: str) -> dict[str, Any]:
    """The video of ``videos`` rows that an id, address or file name means. Raises ConfigError for none or several."""
    found = _named(rows, wanted)
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(video["video_id"] for video in found)
        raise ConfigError(f"{len(found)} videos are called {wanted!r}: name one by its id ({ids})")
    raise ConfigError(f"the archive holds no video {wanted!r}: `malmm show --archive …` lists what it holds")


def select_videos(
    archive: ArchiveReader,
    names: Sequence[str] = (),
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    where: str | None = None,
) -> pa.Table:
    """Rows of ``videos`` that fit everything given, by URI.

    ``names`` are ids, addresses, file names or globs (``*``, ``?``) over addresses and file names; any of them will do.
    ``since`` and ``until`` bound when the video was indexed, [since, until). ``where`` is a SQL condition over the
    table's columns. Raises ConfigError for a name that means no video, or a condition that is none.
    """
    table = archive.videos_where(where) if where else archive.videos()
    rows = table.to_pylist()
    chosen = set(range(len(rows)))
    if names:
        wanted: set[str] = set()
        for name in names:
            found = _named(rows, name) or _globbed(rows, name)
            if not found:
                raise ConfigError(
                    f"the archive holds no video {name!r}: `malmm show --archive …` lists what it holds"
                )
            wanted |= {video["video_id"] for video in found}
        chosen = {index for index in chosen if rows[index]["video_id"] in wanted}
    if since is not None:
        chosen = {index for index in chosen if rows[index]["indexed_at"] >= since}
    if until is not None:
        chosen = {index for index in chosen if rows[index]["indexed_at"] < until}
    return table.take(pa.array(sorted(chosen), pa.int64()))


def parse_time(option: str, text: str) -> datetime:
    """A date or a date and time, in UTC unless it says otherwise. Raises ConfigError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{option} {text!r}: write a date such as 2026-03-01 or 2026-03-01T12:30"
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _named(rows: Sequence[dict[str, Any]], wanted: str) -> list[dict[str, Any]]:
    place = resolve(wanted)
    tests = (
        lambda video: wanted in (video["video_id"], video["uri"]),
        lambda video: place == video["uri"],
        lambda video: PurePath(video["uri"]).name == wanted,
    )
    for test in tests:
        if found := [video for video in rows if test(video)]:
            return found
    return []


def _globbed(rows: Sequence[dict[str, Any]], pattern: str) -> list[dict[str, Any]]:
    place = resolve(pattern)
    return [
        video
        for video in rows
        if any(fnmatch.fnmatchcase(video["uri"], each) for each in (pattern, place))
        or fnmatch.fnmatchcase(PurePath(video["uri"]).name, pattern)
    ]
