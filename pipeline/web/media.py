"""Serve a video's bytes, whole or by range (RFC 9110), from disk or an object store, a bounded piece at a time."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response, StreamingResponse

from malmm.operators.media.ranges import open_ranges
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.web.checked_http import CheckedFile, CheckedHttp
from malmm.pipeline.web.display_names import media_type
from malmm.pipeline.web.media_roots import HTTP_SCHEMES, MediaRoots
from malmm.pipeline.web.range_requests import Representation, Span, joined_lines, select

__all__ = ["Source", "media_response", "open_source"]

_PIECE_BYTES = 1 << 18
_WEB = tuple(f"{scheme}://" for scheme in HTTP_SCHEMES)


@dataclass(frozen=True)
class Source:
    """An open file, and what conditional requests are compared with. ``pieces`` and ``parts`` close the file."""

    uri: str
    handle: Any
    held: Representation

    def pieces(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes [begin, end) and close the file. Raises MediaError if the store fails."""
        with self.handle:
            yield from self._bytes(begin, end)

    def parts(self, parts: Sequence[tuple[bytes, Span]], end: bytes) -> Iterator[bytes]:
        """Yield each part's head and bytes, then ``end``, and close the file. Raises MediaError."""
        with self.handle:
            for head, span in parts:
                yield head
                yield from self._bytes(*span)
            yield end

    def _bytes(self, begin: int, end: int) -> Iterator[bytes]:
        self.handle.seek(begin)
        if hasattr(self.handle, "settled"):
            self.handle.settled(end)
        while begin < end:
            try:
                piece = self.handle.read(min(_PIECE_BYTES, end - begin))
            except OSError as error:
                raise MediaError(
                    f"{self.uri} cannot be read: {error}", uri=self.uri, kind="unreachable"
                ) from error
            if not piece:
                raise MediaError(
                    f"{self.uri} became shorter while it was read", uri=self.uri, kind="truncated"
                )
            begin += len(piece)
            yield piece


def open_source(uri: str, roots: MediaRoots) -> Source:
    """Open a video's file below one of ``roots``.

    Raises NotServed if it lies outside of them, and MediaError (of kind ``missing`` if the file is gone).
    """
    local = roots.open_local(uri)
    if local is not None:
        found = os.fstat(local.fileno())
        # Not in the future: clients could not use such a date.
        modified = datetime.fromtimestamp(int(found.st_mtime), UTC)
        known = f'"{found.st_size:x}-{found.st_mtime_ns:x}"'
        return Source(uri, local, Representation(found.st_size, known, min(modified, _now())))
    roots.require_address(uri)
    if not uri.lower().startswith(_WEB):
        reader = open_ranges(uri)
        return Source(uri, reader, Representation(reader.size_bytes, f'"{reader.version}"'))
    web = CheckedHttp(roots.permits_address)
    info = _web_info(uri, web)
    handle = CheckedFile(uri, web, info["size"])
    return Source(uri, handle, Representation(info["size"], _tag_of(info)))


def _tag_of(info: dict[str, Any]) -> str | None:
    """Our entity tag for a web file, from its server's validators: as weak as those. None without validators."""
    if not info["etag"] and not info["last_modified"]:
        return None
    said = f"{info['size']} {info['etag']} {info['last_modified']}"
    weak = "" if info["etag"] and not info["etag"].startswith("W/") else "W/"
    return f'{weak}"{hashlib.blake2b(said.encode(), digest_size=12).hexdigest()}"'


def _web_info(uri: str, web: CheckedHttp) -> dict[str, Any]:
    try:
        return web.info(uri)
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
    except OSError as error:
        raise MediaError(f"{uri} cannot be opened: {error}", uri=uri, kind="unreachable") from error


def media_response(source: Source, *, method: str, headers: Headers) -> Response:
    """The response to a request for a file: 200, 206, 304, 412 or 416. The file is closed once it is sent."""
    held = source.held
    selected = select(method, joined_lines(headers.items()), held, _now())
    answered = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": "inline",
    }
    if held.tag is not None:
        answered["ETag"] = held.tag
    if held.modified is not None:
        answered["Last-Modified"] = format_datetime(held.modified, usegmt=True)
    if selected.status == 416:
        answered["Content-Range"] = f"bytes */{held.size_bytes}"
    kind = media_type(source.uri)
    if not selected.spans:
        source.handle.close()
        return Response(status_code=selected.status, headers=answered)
    if len(selected.spans) > 1:
        return _multipart(source, selected.spans, kind, answered)
    [(begin, end)] = selected.spans
    answered["Content-Length"] = str(end - begin)
    if selected.status == 206:
        answered["Content-Range"] = f"bytes {begin}-{end - 1}/{held.size_bytes}"
    if method == "HEAD":
        source.handle.close()
        return Response(status_code=selected.status, headers=answered, media_type=kind)
    return StreamingResponse(
        source.pieces(begin, end), status_code=selected.status, headers=answered, media_type=kind
    )


def _multipart(source: Source, spans: Sequence[Span], kind: str, answered: dict[str, str]) -> Response:
    """A response with several ranges in one body (RFC 9110, section 14.6)."""
    boundary = secrets.token_hex(16)
    size = source.held.size_bytes
    parts = [
        (
            f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n"
            f"Content-Range: bytes {begin}-{end - 1}/{size}\r\n\r\n".encode(),
            (begin, end),
        )
        for begin, end in spans
    ]
    last = f"\r\n--{boundary}--\r\n".encode()
    length = len(last) + sum(len(head) + end - begin for head, (begin, end) in parts)
    return StreamingResponse(
        source.parts(parts, last),
        status_code=206,
        headers=answered | {"Content-Length": str(length)},
        media_type=f"multipart/byteranges; boundary={boundary}",
    )


def _now() -> datetime:
    return datetime.now(UTC)
