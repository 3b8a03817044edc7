"""An HTTP server on loopback whose every answer is scripted: files, index pages, faults and lies."""

from __future__ import annotations

import html
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote

from support.answering import answering

__all__ = ["Reply", "WebServer", "serving"]


@dataclass(frozen=True)
class Reply:
    """What the server does with a request.

    A status of 200 with a body answers ranges with 206 if ``ranges`` is set. ``chunked`` leaves out Content-Length,
    ``cut`` closes the connection in the middle of the body, ``silent`` accepts and never answers until the server ends.
    ``shift`` moves what a range gives, ``claims`` is the Content-Range that it is said to be.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    chunked: bool = False
    cut: bool = False
    silent: bool = False
    shift: int = 0
    claims: str | None = None


Rule = Callable[[str, str, int], Reply | None]
"""Method, path and how many requests for the path came before, to what overrides the file there."""


class WebServer:
    """``files`` are served by their path; a path that ends in a slash is an index page of what lies below it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, Reply] = {}
        self.rule: Rule = lambda method, path, before: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.ended = threading.Event()

    def put(self, path: str, body: bytes = b"video", **options: object) -> str:
        """Serve a file; gives its address."""
        self.files[path] = replace(Reply(body), **options)  # type: ignore[arg-type]
        return f"{self.address}{path}"

    def reply(self, method: str, path: str) -> Reply:
        """The answer to a request."""
        with self.lock:
            before = sum(seen == path for _, seen in self.requests)
            self.requests.append((method, path))
        found = self.rule(method, path, before) or self.files.get(path) or self.files.get(unquote(path))
        if found is not None:
            return found
        folder = unquote(path)
        below = {name[len(folder) :] for name in self.files if path.endswith("/") and name.startswith(folder)}
        names = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in below if name})
        if not names:
            return Reply(status=404)
        rows = "".join(f'<li><a href="{html.escape(quote(name))}">{html.escape(name)}</a>' for name in names)
        page = f'<a href="../">up</a> <a href="?C=N;O=D">Name</a> <ul>{rows}</ul>'
        return Reply(page.encode(), headers={"Content-Type": "text/html; charset=utf-8"}, ranges=False)


@contextmanager
def serving() -> Iterator[WebServer]:
    """A server without files."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    web = WebServer(f"http://127.0.0.1:{server.server_port}")
    server.web = web  # type: ignore[attr-defined]
    with answering(server):
        try:
            yield web
        finally:
            web.ended.set()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no fault."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the body waits until the head is acknowledged, which takes the other side up to 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        web: WebServer = self.server.web  # type: ignore[attr-defined]
        reply = web.reply(self.command, self.path)
        if reply.silent:
            web.ended.wait()
            self.close_connection = True
            return
        status, body, headers = reply.status, reply.body, dict(reply.headers)
        asked = self.headers.get("Range", "")
        if status == 200 and reply.ranges and asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(len(body), int(last) + 1 if last else len(body))
            if begin >= len(body):
                status, headers["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                status = 206
                headers["Content-Range"] = reply.claims or f"bytes {begin}-{end - 1}/{len(body)}"
                body = body[max(0, begin + reply.shift) : max(0, end + reply.shift)]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body,) if part) + b"0\r\n\r\n"
        else:
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            content = body
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if reply.cut else content)
        if reply.cut:
            self.close_connection = True

    def _safely(self) -> None:
        try:
            self._answer()
        except OSError:
            self.close_connection = True

    do_GET = do_HEAD = _safely
