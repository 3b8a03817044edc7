"""Calls into fsspec with time limits, retries with growing pauses, and one exception for all failures.

All access to remote files goes through here, so that no library's exception and no silent server gets any further. Our
time limits apply to HTTP and S3, which take them as settings; other backends use their library's.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from malmm.pipeline.schema.errors import MalmmError
from malmm.pipeline.sources.backend_errors import Cause, classify

__all__ = [
    "HTTP",
    "ONCE",
    "PATIENCE",
    "S3",
    "Backend",
    "BackendFailure",
    "Patience",
    "open_backend",
    "patiently",
]

HTTP = ("http", "https")
S3 = ("s3", "s3a")

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """Limits for retries and time.

    A call is tried up to ``attempts`` times, with pauses that double from ``first_pause_s`` up to ``longest_pause_s``
    (also the limit for a ``Retry-After`` header), and not again after ``total_s``. Connecting may take ``connect_s``,
    waiting for the next bytes of an answer ``answer_s``; a request for one file's metadata ``answer_s`` in all, and for
    one page of a listing ``page_s``.
    """

    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0
    total_s: float = 60.0
    connect_s: float = 10.0
    answer_s: float = 20.0
    page_s: float = 120.0


PATIENCE = Patience()
"""The default limits. Read at every call, so that tests can replace it."""

ONCE = Patience(attempts=1)


class BackendFailure(Exception):  # noqa: N818 - not an error of this package: callers turn it into one
    """A call that failed finally: why, and after how many tries."""

    def __init__(self, cause: Cause, tries: int, limit_s: float) -> None:
        super().__init__(cause.reason)
        self.cause, self.tries, self.limit_s = cause, tries, limit_s

    @property
    def kind(self) -> str:
        """One of ``backend_errors.KINDS``."""
        return self.cause.kind

    def sentence(self, uri: str, *, deed: str = "reached") -> str:
        """A message for users about the address; ``deed`` is what was tried, as a participle."""
        reason = self.cause.reason
        if self.cause.timed_out:
            reason = f"no answer within {self.limit_s:g} s"
        tries = f" after {self.tries} tries" if self.tries > 1 else ""
        if self.kind == "missing":
            return f"no such file or directory: {uri}"
        if self.kind == "denied":
            return f"{uri} may not be read: {reason}; give these credentials permission"
        if self.kind == "throttled":
            return f"{uri} cannot be {deed}{tries}: {reason}; it asks for fewer requests, run again later"
        return f"{uri} cannot be {deed}{tries}: {reason}"


def patiently(action: Callable[[], T], patience: Patience | None = None) -> T:
    """Call a backend and return the result; retry transient failures.

    Raises BackendFailure for any failure of the backend, and this package's own exceptions unchanged.
    """
    patience = patience or PATIENCE
    began = time.monotonic()
    for tries in range(1, patience.attempts + 1):
        try:
            return action()
        except (MalmmError, BackendFailure):
            raise
        except Exception as error:
            cause = classify(error)
            pause_s = min(
                patience.longest_pause_s, max(cause.retry_after_s, patience.first_pause_s * 2 ** (tries - 1))
            )
            left_s = patience.total_s - (time.monotonic() - began)
            if not cause.passes or tries == patience.attempts or pause_s > left_s:
                raise BackendFailure(cause, tries, patience.answer_s) from error
            time.sleep(pause_s)
    raise AssertionError


@dataclass(frozen=True)
class Backend:
    """A file system and a path in it. ``protocol`` is the URI's scheme in lower case."""

    uri: str
    protocol: str
    filesystem: Any
    path: str

    def address_of(self, path: str) -> str:
        """The address of another path in this file system.

        Where a path does not say on which host it lies (SFTP, FTP, SMB), the host is that of ``uri``.
        """
        address = str(self.filesystem.unstrip_protocol(path))
        ours = urlsplit(self.uri)
        if ours.netloc and self.path.strip("/") == ours.path.strip("/") and not urlsplit(address).netloc:
            return f"{self.protocol}://{ours.netloc}/{address.partition('://')[2].lstrip('/')}"
        return address

    def call(self, method: str, *args: Any, limit_s: float | None = None, **options: Any) -> Any:
        """Call a method of the file system once. Ends it after ``limit_s`` if the backend is asynchronous."""
        if limit_s is not None and getattr(self.filesystem, "async_impl", False):
            coroutine = getattr(self.filesystem, f"_{method}")
            return sync(self.filesystem.loop, coroutine, *args, timeout=limit_s, **options)
        return getattr(self.filesystem, method)(*args, **options)


def open_backend(uri: str) -> Backend:
    """The backend of a URI, with limits set. Sends no request yet.

    Raises BackendFailure, of kind ``invalid`` if the scheme is unknown or its package is missing.
    """
    protocol = uri.partition("://")[0].lower()

    def connect() -> tuple[Any, str]:
        options = _options(protocol)
        if "::" not in uri or _is_chain(protocol):
            return fsspec.core.url_to_fs(uri, **options)
        # fsspec would take the beginning of such an address for the whole: of a name with `::`, of a host by IPv6.
        cls = fsspec.get_filesystem_class(protocol)
        filesystem = fsspec.filesystem(protocol, **{**cls._get_kwargs_from_urls(uri), **options})
        return filesystem, str(cls._strip_protocol(uri))

    filesystem, path = patiently(connect, ONCE)
    if protocol in S3:
        # `patiently` retries; one more try here is for an answer that is cut off.
        filesystem.retries = 2
    return Backend(uri, protocol, filesystem, path)


def _is_chain(protocol: str) -> bool:
    """Whether ``::`` in an address of this scheme separates the addresses of file systems that lie in each other."""
    if "::" in protocol:
        return True
    parameters = inspect.signature(fsspec.get_filesystem_class(protocol).__init__).parameters
    return not {"fo", "fs", "target_protocol"}.isdisjoint(parameters)


def _options(protocol: str) -> dict[str, Any]:
    """The settings for a file system: ours, overridden by the user's fsspec configuration."""
    patience = PATIENCE
    if protocol in HTTP:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.answer_s)
        theirs = _configured(HTTP, "client_kwargs")
        # A range of a compressed answer would not be a range of the file.
        headers = {"Accept-Encoding": "identity"} | theirs.get("headers", {})
        return {"client_kwargs": {"timeout": timeout} | theirs | {"headers": headers}}
    if protocol in S3:
        limits = {
            "connect_timeout": patience.connect_s,
            "read_timeout": patience.answer_s,
            "retries": {"max_attempts": 0},
        }
        # A cached listing would hide later changes.
        return {"config_kwargs": limits | _configured(S3, "config_kwargs"), "use_listings_cache": False}
    return {}


def _configured(protocols: tuple[str, ...], name: str) -> dict[str, Any]:
    """A mapping option from fsspec's configuration."""
    found: dict[str, Any] = {}
    for protocol in protocols:
        part = fsspec.config.conf.get(protocol, {}).get(name)
        found |= part if isinstance(part, dict) else {}
    return found
