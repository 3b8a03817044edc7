"""A real S3 server on loopback, behind a proxy that counts what it serves and can be told to misbehave."""

from __future__ import annotations

import atexit
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from support.answering import answering
from support.processes import end_decoding_process

__all__ = ["ObjectStore", "reached", "running"]

#: What becomes of a request, by its method and path: ``ok``, a status, ``cut`` in the middle, or ``slow``.
Fault = Callable[[str, str], str]
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
_SLOW_S = 0.5


class ObjectStore:
    """``endpoint`` is the proxy's address; ``served`` are the bytes of objects that it gave, by key."""

    def __init__(self, endpoint: str, behind: tuple[str, int]) -> None:
        self.endpoint, self.behind = endpoint, behind
        self.fault: Fault = lambda method, path: "ok"
        self.served: dict[str, int] = {}
        self.requests: list[tuple[str, str, str]] = []
        #: Names by which keys may be called as well: other name to real one, of equal length.
        self.aliases: dict[str, str] = {}
        #: Headers of requests that this store takes no notice of, in lower case.
        self.ignored_headers: set[str] = set()
        self.lock = threading.Lock()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            # The client's own patience comes on top of ours.
            "AWS_MAX_ATTEMPTS": "1",
        }

    def put(self, key: str, content: bytes | Path, bucket: str = "films") -> None:
        """Make an object, past the proxy."""
        body = content if isinstance(content, bytes) else content.read_bytes()
        _client().put_object(Bucket=bucket, Key=key, Body=body)

    def forget(self) -> None:
        """Begin to count anew."""
        with self.lock:
            self.served.clear()
            self.requests.clear()


@contextmanager
def running(bucket: str = "films") -> Iterator[ObjectStore]:
    """A store with such a bucket. What is in it outlives the block, as in a store."""
    behind = _server()
    # A file system that s3fs keeps for the next one who asks would still go to the store of an earlier test.
    S3FileSystem.clear_instance_cache()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    store = ObjectStore(f"http://127.0.0.1:{proxy.server_port}", behind)
    proxy.store = store  # type: ignore[attr-defined]
    _make_bucket(bucket)
    try:
        with answering(proxy):
            yield store
    finally:
        S3FileSystem.clear_instance_cache()


@cache
def _server() -> tuple[str, int]:
    """The server of this process, which keeps its objects in memory: it ends with the process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    atexit.register(server.stop)
    return server.get_host_and_port()


@cache
def _make_bucket(name: str) -> None:
    _client().create_bucket(Bucket=name)


@cache
def _client() -> Any:
    """A client of this process: making one takes longer than most of what it does."""
    host, port = _server()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106
        region_name="us-east-1",
    )
    atexit.register(client.close)
    return client


@contextmanager
def reached(store: ObjectStore) -> Iterator[None]:
    """Have this process, and the one that decodes for it, find the store, well again."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        end_decoding_process()
        store.fault = lambda method, path: "ok"
        store.forget()
        yield
    end_decoding_process()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise the body waits until the head is acknowledged, which takes the other side up to 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        store: ObjectStore = self.server.store  # type: ignore[attr-defined]
        fault = store.fault(self.command, self.path)
        with store.lock:
            store.requests.append((self.command, self.path, fault))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, headers = self.path, dict(self.headers)
        alias = next((alias for alias in store.aliases if alias in path or alias.encode() in body), None)
        if alias is not None:
            real = store.aliases[alias]
            path, body = path.replace(alias, real), body.replace(alias.encode(), real.encode())
            headers = {name: value.replace(alias, real) for name, value in headers.items()}
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "slow":
            time.sleep(_SLOW_S)
        connection = http.client.HTTPConnection(*store.behind, timeout=60)
        headers = {
            name: value for name, value in headers.items() if name.lower() not in store.ignored_headers
        }
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if alias is not None and b"<?xml" in data[:100]:
            data = data.replace(store.aliases[alias].encode(), alias.encode())
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command == "GET" and "?" not in self.path:
            with store.lock:
                store.served[self.path] = store.served.get(self.path, 0) + len(data)
        try:
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        except OSError:
            self.close_connection = True
        if fault == "cut":
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on
