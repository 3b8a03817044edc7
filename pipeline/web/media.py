"""A video's bytes, whole or by range (RFC 9110), from a disk or an object store, a bounded piece at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import IO, Any

from starlette.responses import Response, StreamingResponse

from malmm.operators.media.files import local_path
from malmm.operators.media.ranges import open_ranges
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.web.display_names import media_type

__all__ = ["Source", "media_response", "open_source", "parse_range"]

_PIECE_BYTES = 1 << 18
_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


@dataclass(frozen=True)
class Source:
    """An open file. ``tag`` changes when its content does. It is closed by whoever reads it last."""

    uri: str
    handle: Any
    size_bytes: int
    tag: str
    modified: str | None = None

    def pieces(self, begin: int, end: int) -> Iterator[bytes]:
        """The bytes [begin, end), and the file closed. Raises MediaError when the store fails."""
        with self.handle:
            self.handle.seek(begin)
            if hasattr(self.handle, "settled"):
                self.handle.settled(end)
            while begin < end:
                piece = self.handle.read(min(_PIECE_BYTES, end - begin))
                if not piece:
                    raise MediaError(
                        f"{self.uri} became shorter while it was read", uri=self.uri, kind="truncated"
                    )
                begin += len(piece)
                yield piece


def open_source(uri: str) -> Source:
    """Open a video's file. Raises MediaError, of kind ``missing`` when it is gone."""
    path = local_path(uri)
    if path is None:
        reader = open_ranges(uri)
        return Source(uri, reader, reader.size_bytes, reader.version)
    try:
        handle = _regular(uri, path)
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{uri} cannot be opened: {error}", uri=uri, kind="unreachable") from error
    found = os.fstat(handle.fileno())
    tag = f"{found.st_size:x}-{found.st_mtime_ns:x}"
    return Source(uri, handle, found.st_size, tag, formatdate(found.st_mtime, usegmt=True))


def _regular(uri: str, path: Path) -> IO[bytes]:
    if not path.is_file():
        # A pipe or a device would keep the reader waiting for ever.
        kind = "unreachable" if path.exists() else "missing"
        raise MediaError(f"{uri} is not a regular file", uri=uri, kind=kind)
    return path.open("rb")


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The bytes [begin, end) that a ``Range`` header asks for; None for the whole file.

    What is not one range of bytes counts as not said, as the standard has it. Raises ValueError for a range that lies
    outside the file.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if len(first) > 18 or len(last) > 18:
        raise ValueError("a range far beyond any file")
    if not first:
        begin, end = max(0, size_bytes - int(last)), size_bytes
    else:
        begin, end = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < begin:
            return None
    if begin >= end:
        raise ValueError("a range outside the file")
    return begin, end


def media_response(
    source: Source, *, method: str, range_header: str | None, if_range: str | None, if_none_match: str | None
) -> Response:
    """The answer to a request for a file: 200, 206, 304 or 416. The file is closed once it is sent."""
    tag = f'"{source.tag}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": "inline",
    }
    if source.modified is not None:
        headers["Last-Modified"] = source.modified
    if if_none_match is not None and tag in (part.strip() for part in if_none_match.split(",")):
        source.handle.close()
        return Response(status_code=304, headers=headers)
    wanted = range_header if if_range in (None, tag, source.modified) else None
    try:
        span = parse_range(wanted, source.size_bytes)
    except ValueError:
        source.handle.close()
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{source.size_bytes}"})
    begin, end = span or (0, source.size_bytes)
    headers["Content-Length"] = str(end - begin)
    if span is not None:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{source.size_bytes}"
    status = 200 if span is None else 206
    if method == "HEAD":
        source.handle.close()
        return Response(status_code=status, headers=headers, media_type=media_type(source.uri))
    return StreamingResponse(
        source.pieces(begin, end), status_code=status, headers=headers, media_type=media_type(source.uri)
    )
