"""Errors of the libraries behind SSH, Google's and Azure's stores and WebDAV, from servers on loopback.

None of these packages is needed to develop this one: a test is left out where its package is missing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import BackendFailure, Patience, open_backend, patiently
from malmm.pipeline.sources.folders import look
from malmm.pipeline.sources.listing import SourceFile, list_sources

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
ONCE = Patience(attempts=1, answer_s=10.0, connect_s=10.0)
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(autouse=True)
def _leaks() -> Iterator[None]:
    """Let no socket that a library left open trouble another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "PATIENCE", ONCE)
    monkeypatch.setattr(fsspec.config, "conf", {})
    # Whatever this machine knows of a cloud, or of keys.
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_CONNECTION_STRING", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)


def configure(protocol: str, implementation: str, **options: Any) -> None:
    """Have addresses of this protocol opened by a class, with settings as in a user's configuration of fsspec."""
    module, _, name = implementation.rpartition(".")
    cls = getattr(__import__(module, fromlist=[name]), name)
    fsspec.register_implementation(protocol, cls, clobber=True)
    cls.clear_instance_cache()
    names = (cls.protocol,) if isinstance(cls.protocol, str) else cls.protocol
    fsspec.config.conf.update(dict.fromkeys({protocol, *names}, options))


def kind_of(uri: str) -> str:
    """Why nothing is listed there; its error costs a source and no more."""
    found = list(list_sources([uri, __file__]))
    assert [type(item) for item in found] == [SourceError, SourceFile]
    with pytest.raises(BackendFailure) as caught:
        look_at(uri)
    return caught.value.kind


def look_at(uri: str) -> None:
    backend = open_backend(uri)
    patiently(lambda: look(backend, backend.path))


@contextmanager
def answering(status: int, code: str = "") -> Iterator[str]:
    """A server that gives every request this status."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = b'{"error": {"code": %d, "message": "no"}}' % status
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("x-ms-error-code", code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PROPFIND = do_GET

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.needs("gcsfs")
@pytest.mark.parametrize(("status", "kind"), [(401, "denied"), (403, "denied")])
def test_google_answers(status: int, kind: str) -> None:
    with answering(status) as address:
        configure("gs", "gcsfs.GCSFileSystem", endpoint_url=address, token="anon")  # noqa: S106
        assert kind_of("gs://films/a.mp4") == kind


@pytest.mark.needs("gcsfs")
def test_google_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    configure("gs", "gcsfs.GCSFileSystem", token="google_default")  # noqa: S106
    assert kind_of("gs://films/a.mp4") == "denied"


AZURE = [
    (401, "NoAuthenticationInformation", "denied"),
    (403, "AuthorizationFailure", "denied"),
    (404, "BlobNotFound", "missing"),
    (429, "TooManyRequests", "throttled"),
]


@pytest.mark.needs("adlfs")
@pytest.mark.parametrize(("status", "code", "kind"), AZURE)
def test_azure_answers(status: int, code: str, kind: str) -> None:
    with answering(status, code) as address:
        account = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={KEY};BlobEndpoint={address}/a;"
        configure("az", "adlfs.AzureBlobFileSystem", connection_string=account)
        assert kind_of("az://films/a.mp4") == kind


@pytest.mark.needs("adlfs")
@pytest.mark.parametrize(
    ("settings", "kind"), [({}, "invalid"), ({"account_name": "a", "account_key": "x"}, "denied")]
)
def test_azure_without_credentials(settings: dict[str, str], kind: str) -> None:
    configure("az", "adlfs.AzureBlobFileSystem", **settings)
    assert kind_of("az://films/a.mp4") == kind


@pytest.mark.needs("webdav4")
@pytest.mark.parametrize(("status", "kind"), [(401, "denied"), (403, "denied"), (404, "missing")])
def test_webdav_answers(status: int, kind: str) -> None:
    with answering(status) as address:
        configure("webdav", "webdav4.fsspec.WebdavFileSystem", base_url=address)
        assert kind_of("webdav://films/a.mp4") == kind


@pytest.mark.needs("webdav4")
@pytest.mark.parametrize(
    ("base", "kind"),
    [("http://127.0.0.1:{port}", "unreachable"), ("nonsense", "invalid"), (None, "invalid")],
)
def test_webdav_without_a_server(base: str | None, kind: str) -> None:
    settings = {} if base is None else {"base_url": base.format(port=unused_port())}
    configure("webdav", "webdav4.fsspec.WebdavFileSystem", **settings)
    assert kind_of("webdav://films/a.mp4") == kind


@pytest.fixture(scope="module")
def ssh_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server that knows one password, with a file, a folder that may not be read and a file that cannot be."""
    asyncssh = pytest.importorskip("asyncssh", reason="needs the package asyncssh: `pip install sshfs`")
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    root = tmp_path_factory.mktemp("served")
    (root / "a.mp4").write_bytes(b"video")
    (root / "locked").mkdir()

    class Server(asyncssh.SSHServer):  # type: ignore[name-defined]
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return password == "right"  # noqa: S105

    class Files(asyncssh.SFTPServer):  # type: ignore[name-defined]
        def __init__(self, channel: Any) -> None:
            super().__init__(channel, chroot=str(root))

        def stat(self, path: bytes) -> Any:
            if b"denied" in path:
                raise asyncssh.SFTPPermissionDenied("no")
            return super().stat(path)

        lstat = stat

        def scandir(self, path: bytes) -> Any:
            if b"locked" in path:
                raise asyncssh.SFTPPermissionDenied("no")
            return super().scandir(path)

    async def begin() -> Any:
        keys = [asyncssh.generate_private_key("ssh-ed25519")]
        return await asyncssh.create_server(Server, "127.0.0.1", 0, server_host_keys=keys, sftp_factory=Files)

    async def end(server: Any) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
        yield server.sockets[0].getsockname()[1]
        asyncio.run_coroutine_threadsafe(end(server), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


CLIENTS = [
    pytest.param(
        "sshfs.SSHFileSystem", {"known_hosts": None, "client_keys": None}, marks=pytest.mark.needs("sshfs")
    ),
    pytest.param(
        "fsspec.implementations.sftp.SFTPFileSystem",
        {"look_for_keys": False, "allow_agent": False},
        marks=pytest.mark.needs("paramiko"),
    ),
]


@pytest.mark.parametrize(("client", "settings"), CLIENTS)
def test_ssh(client: str, settings: dict[str, Any], ssh_port: int) -> None:
    good = settings | {"username": "me", "password": "right", "port": ssh_port}
    configure("sftp", client, **good)
    # A path of such a store does not say on which host it lies; the address does.
    [file] = list_sources(["sftp://127.0.0.1/a.mp4"])
    found = list(list_sources(["sftp://127.0.0.1/"]))
    assert [item.uri for item in (file, *found)] == [
        "sftp://127.0.0.1/a.mp4",
        "sftp://127.0.0.1/a.mp4",
        "sftp://127.0.0.1/locked/",
    ]
    assert isinstance(found[1], SourceError)
    assert kind_of("sftp://127.0.0.1/none.mp4") == "missing"
    assert kind_of("sftp://127.0.0.1/denied.mp4") == "denied"
    configure("sftp", client, **good | {"password": "wrong"})
    assert kind_of("sftp://127.0.0.1/a.mp4") == "denied"
    configure("sftp", client, **good | {"port": unused_port()})
    assert kind_of("sftp://127.0.0.1/a.mp4") == "unreachable"
