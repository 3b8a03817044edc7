"""Calls into fsspec: with time limits, tried again with growing pauses, every exception turned into one.

All of this package's access to remote files goes through here, so that no library's exception and no silent server
gets any further. Limits hold for HTTP and S3, which take them as settings; other backends have their library's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

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
    """How long a backend is waited for.

    A call is tried ``attempts`` times with pauses that double from ``first_pause_s`` up to ``longest_pause_s`` (a
    ``Retry-After`` header counts up to that too), and no more once ``total_s`` have gone by. A connection may take
    ``connect_s`` and the next bytes of an answer ``answer_s``; looking at one file takes ``answer_s`` in all, and one
    page of a listing ``page_s``.
    """

    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0
    total_s: float = 60.0
    connect_s: float = 10.0
    answer_s: float = 20.0
    page_s: float = 120.0


PATIENCE = Patience()
"""What holds where nothing else is said; read at every call, so tests may put another in its place."""

ONCE = Patience(attempts=1)


class BackendFailure(Exception):  # noqa: N818 - not an error of this package: callers turn it into one
    """A call that failed for good: why, and after how many tries."""

    def __init__(self, cause: Cause, tries: int, limit_s: float) -> None:
        super().__init__(cause.reason)
        self.cause, self.tries, self.limit_s = cause, tries, limit_s

    @property
    def kind(self) -> str:
        """One of ``backend_errors.KINDS``."""
        return self.cause.kind

    def sentence(self, uri: str, *, deed: str = "reached") -> str:
        """What to tell a user of the address; ``deed`` is what was tried, as a participle."""
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
    """The result of a call into a backend, tried again for as long as its error may pass.

    Raises BackendFailure for every other exception, and lets this package's own through.
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
    """A file system and a path in it. ``protocol`` is the scheme as the address has it, in small letters."""

    uri: str
    protocol: str
    filesystem: Any
    path: str

    def call(self, method: str, *args: Any, limit_s: float | None = None, **options: Any) -> Any:
        """Call a method of the file system once, ended after ``limit_s`` where the backend can be."""
        if limit_s is not None and getattr(self.filesystem, "async_impl", False):
            coroutine = getattr(self.filesystem, f"_{method}")
            return sync(self.filesystem.loop, coroutine, *args, timeout=limit_s, **options)
        return getattr(self.filesystem, method)(*args, **options)


def open_backend(uri: str) -> Backend:
    """The backend of an address, with limits set. Nothing is asked of it yet.

    Raises BackendFailure, of kind ``invalid`` for a scheme that is unknown or whose package is missing.
    """
    protocol = uri.partition("://")[0].lower()

    def connect() -> tuple[Any, str]:
        return fsspec.core.url_to_fs(uri, **_options(protocol))

    filesystem, path = patiently(connect, ONCE)
    if protocol in S3:
        # `patiently` tries again; once more here is for an answer that is cut off in its middle.
        filesystem.retries = 2
    return Backend(uri, protocol, filesystem, path)


def _options(protocol: str) -> dict[str, Any]:
    """The settings for a file system: ours, below those that the user has in fsspec's configuration."""
    patience = PATIENCE
    if protocol in HTTP:
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=patience.connect_s, sock_read=patience.answer_s)
        theirs = _configured(HTTP, "client_kwargs")
        # A range of a compressed file would be a range of something else.
        headers = {"Accept-Encoding": "identity"} | theirs.get("headers", {})
        return {"client_kwargs": {"timeout": timeout} | theirs | {"headers": headers}}
    if protocol in S3:
        limits = {
            "connect_timeout": patience.connect_s,
            "read_timeout": patience.answer_s,
            "retries": {"max_attempts": 0},
        }
        # A listing kept from earlier would hide what has changed since.
        return {"config_kwargs": limits | _configured(S3, "config_kwargs"), "use_listings_cache": False}
    return {}


def _configured(protocols: tuple[str, ...], name: str) -> dict[str, Any]:
    """What fsspec's configuration says of an option that is a mapping."""
    found: dict[str, Any] = {}
    for protocol in protocols:
        part = fsspec.config.conf.get(protocol, {}).get(name)
        found |= part if isinstance(part, dict) else {}
    return found
