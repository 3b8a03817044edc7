"""Every exception of every library is one of six kinds and one line, and costs its own source alone."""

from __future__ import annotations

import errno
import importlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import botocore.exceptions
import fsspec
import hypothesis.strategies as st
import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from yarl import URL

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources import backend_errors, backends
from malmm.pipeline.sources.backend_errors import KINDS, PASSING, classify
from malmm.pipeline.sources.backends import BackendFailure, Patience, patiently
from malmm.pipeline.sources.listing import SourceFile, is_gone, list_sources

REQUEST = aiohttp.RequestInfo(URL("http://h/v"), "GET", {}, URL("http://h/v"))  # type: ignore[arg-type]


def answered(status: int, **headers: str) -> Exception:
    return aiohttp.ClientResponseError(REQUEST, (), status=status, headers=headers)  # type: ignore[arg-type]


def s3(status: int, code: str) -> Exception:
    content = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(content, "GetObject")


def caused(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


def meanwhile(outer: Exception, context: Exception) -> Exception:
    outer.__context__ = context
    return outer


KINDS_OF: list[tuple[Exception, str]] = [
    (FileNotFoundError(2, "No such file or directory"), "missing"),
    (NotADirectoryError(20, "Not a directory"), "missing"),
    (answered(404), "missing"),
    (answered(410), "missing"),
    (s3(404, "NoSuchKey"), "missing"),
    (caused(FileNotFoundError("v"), KeyError("v")), "missing"),
    (caused(FileNotFoundError("v"), answered(404)), "missing"),
    (PermissionError(13, "Permission denied"), "denied"),
    (answered(401), "denied"),
    (answered(403), "denied"),
    (s3(403, "AccessDenied"), "denied"),
    (caused(PermissionError("expired"), s3(400, "ExpiredToken")), "denied"),
    (caused(FileNotFoundError("v"), answered(403)), "denied"),
    (botocore.exceptions.NoCredentialsError(), "denied"),
    (botocore.exceptions.PartialCredentialsError(provider="env", cred_var="key"), "denied"),
    (botocore.exceptions.TokenRetrievalError(provider="sso", error_msg="expired"), "denied"),
    (answered(500), "unreachable"),
    (answered(503), "unreachable"),
    (answered(418), "unreachable"),
    (s3(500, "InternalError"), "unreachable"),
    (caused(OSError(errno.EBUSY, "busy"), s3(503, "ServiceUnavailable")), "unreachable"),
    (caused(FileNotFoundError("v"), answered(502)), "unreachable"),
    (caused(FileNotFoundError("v"), aiohttp.ServerTimeoutError()), "unreachable"),
    (meanwhile(FileNotFoundError("v"), ConnectionResetError()), "unreachable"),
    (aiohttp.ServerDisconnectedError(), "unreachable"),
    (aiohttp.ClientPayloadError(), "unreachable"),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="http://h"), "unreachable"),
    (botocore.exceptions.ReadTimeoutError(endpoint_url="http://h"), "unreachable"),
    (FSTimeoutError(), "unreachable"),
    (TimeoutError(), "unreachable"),
    (socket.gaierror(-2, "Name or service not known"), "unreachable"),
    (ConnectionRefusedError(111, "Connection refused"), "unreachable"),
    (OSError(errno.EIO, "Input/output error"), "unreachable"),
    (EOFError(), "unreachable"),
    (answered(429), "throttled"),
    (s3(503, "SlowDown"), "throttled"),
    (caused(OSError(errno.EBUSY, "slow down"), s3(503, "SlowDown")), "throttled"),
    (aiohttp.TooManyRedirects(REQUEST, (), status=302), "invalid"),
    (aiohttp.InvalidURL("http://"), "invalid"),
    (botocore.exceptions.ProfileNotFound(profile="nobody"), "invalid"),
    (botocore.exceptions.ParamValidationError(report="bucket"), "invalid"),
    (botocore.exceptions.NoRegionError(), "invalid"),
    (ImportError("install gcsfs"), "invalid"),
    (ValueError("protocol not known"), "invalid"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), "invalid"),
    (OSError(errno.ENOSPC, "No space left on device"), "invalid"),
    (NotImplementedError(), "invalid"),
    (RecursionError(), "invalid"),
    (type("StrangeError", (Exception,), {})("odd"), "other"),
    (RuntimeError("closed"), "other"),
]


@pytest.mark.parametrize(("error", "kind"), KINDS_OF, ids=lambda value: str(value)[:40])
def test_kinds(error: Exception, kind: str) -> None:
    cause = classify(error)
    assert cause.kind == kind
    assert cause.reason
    assert "\n" not in cause.reason


def test_an_error_on_the_way_to_another_does_not_decide_it() -> None:
    # A library looks into its cache first: that is not why the store then refuses.
    assert classify(meanwhile(PermissionError("no"), FileNotFoundError("cache"))).kind == "denied"
    assert classify(meanwhile(FileNotFoundError("v"), FileNotFoundError("cache"))).kind == "missing"


def test_every_class_of_the_table_is_one_of_its_library() -> None:
    modules = ("aiohttp", "botocore.exceptions", "ftplib", "requests.exceptions")
    places = {module.partition(".")[0]: module for module in modules}
    checked = 0
    for name, kind in backend_errors._CLASSES.items():
        package, _, cls = name.partition(".")
        assert kind in KINDS
        if package in places:
            found = getattr(importlib.import_module(places[package]), cls)
            assert found.__module__.partition(".")[0] == package
            checked += 1
    assert checked > 20


class Faulty(MemoryFileSystem):
    """Files in memory, of which some calls raise what a test wants."""

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    raised: Exception | None = None
    within = ""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(str(path).replace("faulty://", "memory://"))

    def info(self, path: str, **options: Any) -> Any:
        self._fail(path)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._fail(path)
        return super().ls(path, detail=detail, **options)

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._fail(path)
        return super().open(path, mode, **options)

    def _fail(self, path: str) -> None:
        if Faulty.raised is not None and Faulty.within in path:
            raise Faulty.raised


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    monkeypatch.setattr(backends, "PATIENCE", Patience(attempts=2, first_pause_s=0.0, longest_pause_s=0.0))
    files = Faulty()
    for name in ("good/a.mp4", "bad/b.mp4", "good/bad/c.mp4"):
        files.pipe(f"/{name}", b"video")
    files.pipe("/bad/list.csv", b"uri\nb.mp4\n")
    yield Faulty
    Faulty.raised, Faulty.within = None, ""
    Faulty.store.clear()


SOURCES = (
    "faulty://bad/b.mp4",
    "faulty://bad",
    "faulty://bad/*.mp4",
    "faulty://bad/**",
    "faulty://bad/list.csv",
)


@pytest.mark.parametrize(("error", "kind"), KINDS_OF, ids=lambda value: str(value)[:40])
def test_an_error_costs_its_source_and_nothing_else(
    error: Exception, kind: str, faulty: type[Faulty], tmp_path: Path
) -> None:
    faulty.raised, faulty.within = error, "/bad"
    for source in SOURCES:
        found = list(list_sources([source, "faulty://good/a.mp4"]))
        assert [type(item) for item in found] == [SourceError, SourceFile], source
        assert str(found[0]).startswith(("no such file", "no file matches", source, "faulty:///bad"))
    assert is_gone("faulty://bad/b.mp4") == (kind == "missing")
    (tmp_path / "list.csv").write_text("uri\nfaulty://bad/b.mp4\nfaulty://good/a.mp4\n")
    assert [type(item) for item in list_sources([str(tmp_path / "list.csv")])] == [SourceError, SourceFile]
    # A folder within a source that can be listed.
    assert [item.uri for item in list_sources(["faulty://good"])] == [
        "faulty:///good/a.mp4",
        "faulty:///good/bad/",
    ]


NAMES = st.sampled_from(["status", "code", "status_code", "response", "headers", "errno", "strerror"])
VALUES = st.one_of(
    st.none(), st.integers(), st.text(max_size=9), st.booleans(), st.floats(), st.binary(max_size=3),
    st.dictionaries(st.sampled_from(["Error", "ResponseMetadata", "Code", "HTTPStatusCode", "Retry-After"]),
                    st.one_of(st.none(), st.text(max_size=9), st.dictionaries(st.text(max_size=9), st.none()))),
)  # fmt: skip
PARENTS = st.sampled_from([Exception, OSError, FileNotFoundError, ValueError, TimeoutError, KeyError])


@st.composite
def exceptions(draw: st.DrawFn) -> Exception:
    """An exception of a library that nobody has seen, with attributes of any kind, some of which raise."""
    error = type(draw(st.text(min_size=1, max_size=9).filter(lambda name: "\0" not in name and name.isprintable())),
                 (draw(PARENTS),), {})(draw(st.text(max_size=20)))  # fmt: skip
    for name, value in draw(st.dictionaries(NAMES, VALUES, max_size=4)).items():
        try:
            setattr(error, name, value)
        except (TypeError, AttributeError):
            continue
    if draw(st.booleans()):
        error.__cause__ = draw(exceptions())
    if draw(st.booleans()):
        error.__context__ = error
    if draw(st.booleans()):
        setattr(type(error), "__str__", lambda self: 1 / 0)  # noqa: B010
    return error


@settings(max_examples=60, deadline=None)
@given(exceptions())
def test_any_exception_is_classified(error: Exception) -> None:
    cause = classify(error)
    assert cause.kind in KINDS
    assert len(cause.reason) <= 300
    assert len(cause.reason.splitlines()) <= 1
    assert cause.retry_after_s >= 0
    with pytest.raises(BackendFailure):
        patiently(
            lambda: (_ for _ in ()).throw(error), Patience(attempts=2, first_pause_s=0, longest_pause_s=0)
        )


@pytest.mark.parametrize(("error", "kind"), KINDS_OF, ids=lambda value: str(value)[:40])
def test_what_may_pass_is_tried_again_and_nothing_else(error: Exception, kind: str) -> None:
    tries = []

    def action() -> None:
        tries.append(1)
        raise error

    with pytest.raises(BackendFailure) as caught:
        patiently(action, Patience(attempts=4, first_pause_s=0, longest_pause_s=0))
    assert len(tries) == caught.value.tries == (4 if kind in PASSING else 1)


def test_the_pause_that_a_server_asks_for_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(backends.time, "sleep", pauses.append)
    error = answered(429, **{"Retry-After": "7"})

    def action() -> None:
        raise error

    with pytest.raises(BackendFailure):
        patiently(action, Patience(attempts=4, first_pause_s=5, longest_pause_s=12, total_s=1000))
    assert pauses == [7, 10, 12]
    assert classify(answered(503, **{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})).retry_after_s == 0
    pauses.clear()
    with pytest.raises(BackendFailure) as caught:
        patiently(action, Patience(attempts=4, first_pause_s=5, longest_pause_s=12, total_s=6))
    assert (pauses, caught.value.tries) == ([], 1)
