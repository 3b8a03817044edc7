"""Every reason for which a source cannot be listed, as docs/sources.md names them, is one that a server produces."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.http_server import Reply, serving

from malmm.pipeline.sources.backend_errors import KINDS
from malmm.pipeline.sources.backends import ONCE, BackendFailure, open_backend, patiently
from malmm.pipeline.sources.folders import look

PAGE = Path(__file__).parents[3] / "docs" / "sources.md"


def look_at(uri: str) -> None:
    backend = open_backend(uri)
    patiently(lambda: look(backend, backend.path), ONCE)


def answered(status: int) -> Callable[[], None]:
    def produce() -> None:
        with serving() as web:
            web.rule = lambda *_: Reply(status=status)
            look_at(f"{web.address}/a.mp4")

    return produce


def unknown_scheme() -> None:
    look_at("nonsense://a.mp4")


def full_ftp_server() -> None:
    """ftplib has an exception of its own for this, which says nothing that is known."""
    with ftp_server(b"421 too many connections\r\n") as address:
        look_at(f"ftp://{address}/a.mp4")


@contextmanager
def ftp_server(answer: bytes) -> Iterator[str]:
    """A server that greets whoever connects and gives one answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"220 hello\r\n")
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join()


PRODUCED: dict[str, Callable[[], None]] = {
    "missing": answered(404),
    "denied": answered(403),
    "throttled": answered(429),
    "unreachable": answered(503),
    "invalid": unknown_scheme,
    "other": full_ftp_server,
}


@pytest.mark.parametrize("kind", PRODUCED)
def test_each_kind_is_produced(kind: str) -> None:
    with pytest.raises(BackendFailure) as caught:
        PRODUCED[kind]()
    assert caught.value.kind == kind


def test_the_documented_kinds_are_those() -> None:
    table = PAGE.read_text().partition("| kind | from | tried again |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| (\w+) \|", table, flags=re.MULTILINE) == list(PRODUCED)
    assert set(PRODUCED) == set(KINDS)
