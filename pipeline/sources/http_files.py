"""Files and index pages over HTTP, with the status and headers of each answer.

fsspec's HTTP backend turns every error into FileNotFoundError, ignores that a size is unknown, and calls any address a
file. These requests use its session, so that its settings (headers, credentials, proxies) apply.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

from fsspec.asyn import sync

__all__ = ["Answer", "look_at", "page_links", "read_range", "save"]

_PAGES = frozenset({"text/html", "application/xhtml+xml"})
_LARGEST_PAGE_BYTES = 1 << 26
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)")
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Answer:
    """A server's answer to a range request. ``size_bytes`` is the whole file's, None if unknown; ``tag`` its ETag.

    ``data`` is None if the server sent the whole file instead, as one without range support does.
    """

    data: bytes | None
    size_bytes: int | None
    tag: str


def look_at(filesystem: Any, url: str, *, limit_s: float) -> dict[str, Any]:
    """Metadata of an address, like fsspec's ``info``: name, type, size (None if unknown), and the headers that tell
    versions apart. Type ``directory`` is a page at an address that ends in a slash, or that redirects to one.

    Raises aiohttp's errors; ClientResponseError for a status of 400 or more.
    """
    return sync(filesystem.loop, _look_at, filesystem, url, timeout=limit_s)


def page_links(filesystem: Any, url: str, *, limit_s: float) -> list[str]:
    """The addresses below ``url`` to which its page links, sorted, each once. Those of folders end in a slash.

    Raises aiohttp's errors, and ValueError if the answer is not a page.
    """
    return sync(filesystem.loop, _page_links, filesystem, url, timeout=limit_s)


def read_range(filesystem: Any, url: str, begin: int, end: int) -> Answer:
    """Read the bytes [begin, end) of a file. Raises aiohttp's errors, and OSError for an answer with another range."""
    return sync(filesystem.loop, _read_range, filesystem, url, begin, end)


def save(filesystem: Any, url: str, sink: Any, *, at_most: int) -> Answer:
    """Write a whole file to ``sink``. Returns its size and tag, without data.

    Raises aiohttp's errors, and OverflowError for a file larger than ``at_most`` bytes.
    """
    return sync(filesystem.loop, _save, filesystem, url, sink, at_most)


async def _look_at(filesystem: Any, url: str) -> dict[str, Any]:
    session, address = await filesystem.set_session(), filesystem.encode_url(url)
    headers: dict[str, str] = {}
    size: int | None = None
    async with session.head(address, allow_redirects=True, **filesystem.kwargs) as answer:
        # Servers that refuse HEAD exist; addresses signed for GET are refused too.
        final, known = _final(answer, address, url), answer.status < 400
        if known:
            headers, size = dict(answer.headers), _length(answer)
    if size is None:
        async with session.get(address, **_with(filesystem, {"Range": "bytes=0-0"})) as answer:
            if answer.status != 416:
                answer.raise_for_status()
            final, size = _final(answer, address, url), _size(answer)
            headers |= {key: value for key, value in answer.headers.items() if key != "Content-Length"}
    found = {key.lower(): value for key, value in headers.items()}
    page = found.get("content-type", "").partition(";")[0].strip().lower() in _PAGES
    is_folder = page and (_path(url).endswith("/") or _path(final).endswith("/"))
    return {
        "name": url,
        "type": "directory" if is_folder else "file",
        "size": size,
        "url": final,
        **{name: found[name.lower()] for name in _VERSIONS if name.lower() in found},
    }


_VERSIONS = ("ETag", "Content-MD5", "Digest", "Last-Modified")


async def _page_links(filesystem: Any, url: str) -> list[str]:
    session, address = await filesystem.set_session(), filesystem.encode_url(url)
    async with session.get(address, **filesystem.kwargs) as answer:
        answer.raise_for_status()
        kind = answer.headers.get("Content-Type", "text/html").partition(";")[0].strip().lower()
        if kind not in _PAGES:
            raise ValueError(f"it is not a page with links but {kind}")
        content, final = await _whole(answer, _LARGEST_PAGE_BYTES), _final(answer, address, url)
        text = content.decode(answer.charset or "utf-8", errors="replace")
    if "<" not in text:
        # The answer was cut off, or the page is not an index: do not take it for an empty folder.
        raise ValueError("it is a page without any markup")
    base = final if _path(final).endswith("/") else f"{final.partition('?')[0].partition('#')[0]}/"
    parser = _Links()
    parser.feed(text)
    parser.close()
    found = set()
    for link in parser.links:
        try:
            address = urljoin(parser.base or base, link).partition("#")[0]
            parts = urlsplit(address)
        except ValueError:
            continue
        # Skip links that sort the page (they differ only in the query) and links to the parent folder.
        if address.startswith(base) and parts.path != urlsplit(base).path and not _climbs(parts.path):
            found.add(address)
    return sorted(found)


class _Links(HTMLParser):
    """Collects the ``href`` of every anchor of a page, and of its ``base``."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.base = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address of a link."""
        address = next((value for name, value in attrs if name == "href" and value), None)
        if address and tag == "a":
            self.links.append(address.strip())
        elif address and tag == "base":
            self.base = address.strip()


async def _read_range(filesystem: Any, url: str, begin: int, end: int) -> Answer:
    session = await filesystem.set_session()
    wanted = _with(filesystem, {"Range": f"bytes={begin}-{end - 1}"})
    async with session.get(filesystem.encode_url(url), **wanted) as answer:
        answer.raise_for_status()
        tag = answer.headers.get("ETag", "")
        if answer.status != 206 or _is_encoded(answer):
            return Answer(None, _length(answer), tag)
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if match is None or match[1] is None:
            raise OSError("the server sent a part of the file and does not say which")
        if int(match[1]) != begin or int(match[2]) >= end:
            raise OSError(f"the server sent bytes {match[1]}-{match[2]} for {begin}-{end - 1}")
        data = await _whole(answer, end - begin)
        return Answer(data, None if match[3] == "*" else int(match[3]), tag)


async def _save(filesystem: Any, url: str, sink: Any, at_most: int) -> Answer:
    session = await filesystem.set_session()
    async with session.get(filesystem.encode_url(url), **filesystem.kwargs) as answer:
        answer.raise_for_status()
        size = 0
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            size += len(piece)
            if size > at_most:
                raise OverflowError(f"it is larger than {at_most} bytes")
            sink.write(piece)
        return Answer(None, size, answer.headers.get("ETag", ""))


async def _whole(answer: Any, at_most: int) -> bytes:
    """The body. Raises OSError if it is larger than ``at_most`` bytes."""
    parts, size = [], 0
    async for piece in answer.content.iter_chunked(_PIECE_BYTES):
        size += len(piece)
        if size > at_most:
            raise OSError(f"the server sent more than {at_most} bytes")
        parts.append(piece)
    return b"".join(parts)


def _with(filesystem: Any, headers: dict[str, str]) -> dict[str, Any]:
    """The options of a request, with additional headers."""
    return {**filesystem.kwargs, "headers": {**filesystem.kwargs.get("headers", {}), **headers}}


def _length(answer: Any) -> int | None:
    """The Content-Length of a whole answer; None for a compressed one, whose length is not the file's."""
    text = answer.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and not _is_encoded(answer) else None


def _is_encoded(answer: Any) -> bool:
    return answer.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity")


def _size(answer: Any) -> int | None:
    """The file's size, from the answer to a request for its first byte."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if answer.status == 200:
        return _length(answer)
    if match is None or match[3] == "*" or _is_encoded(answer):
        return None
    size = int(match[3])
    return size if answer.status == 206 or size == 0 else None


def _final(answer: Any, asked: Any, url: str) -> str:
    """The address after redirects; without redirects as it was given, since aiohttp changes the spelling."""
    return url if answer.url == asked else str(answer.url)


def _path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _climbs(path: str) -> bool:
    return any(part.lower() in ("..", "%2e%2e", ".%2e", "%2e.") for part in path.split("/"))
