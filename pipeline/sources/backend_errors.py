"""Classify the exceptions of storage libraries, whatever library raised them.

Each backend (aiohttp, botocore, gcsfs, an Azure, SFTP or WebDAV client) has exceptions of its own, often wrapped in a
Python exception that says less: fsspec turns every HTTP error into FileNotFoundError. ``classify`` looks at the whole
chain of causes, their HTTP statuses and their classes, and returns one of six kinds:

============  ========================================================  =======
kind          meaning                                                   retried
============  ========================================================  =======
missing       there is nothing at the address                           no
denied        the credentials are absent, expired or insufficient       no
unreachable   no connection, no answer in time, a failing server        yes
throttled     the store asks for fewer requests                         yes
invalid       the address, the settings or the request are wrong        no
other         any other exception of a library                          yes
============  ========================================================  =======
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

__all__ = ["KINDS", "PASSING", "Cause", "classify"]

KINDS = ("missing", "denied", "unreachable", "throttled", "invalid", "other")
PASSING = frozenset({"unreachable", "throttled", "other"})
"""Kinds of transient failures, which are retried."""

_LONGEST_REASON = 300
_DEEPEST_CHAIN = 8

# By the package and the name of a class. The first class of an exception's MRO in this table decides.
_CLASSES = {
    "aiohttp.TooManyRedirects": "invalid",
    "aiohttp.InvalidURL": "invalid",
    "aiohttp.NonHttpUrlClientError": "invalid",
    "aiohttp.ClientSSLError": "invalid",
    "aiohttp.ClientConnectionError": "unreachable",
    "aiohttp.ClientPayloadError": "unreachable",
    "asyncssh.HostKeyNotVerifiable": "invalid",
    "asyncssh.PermissionDenied": "denied",
    "asyncssh.DisconnectError": "unreachable",
    "asyncssh.SFTPNoSuchFile": "missing",
    "asyncssh.SFTPNoSuchPath": "missing",
    "asyncssh.SFTPPermissionDenied": "denied",
    "asyncssh.SFTPConnectionLost": "unreachable",
    "asyncssh.SFTPNoConnection": "unreachable",
    "azure.ClientAuthenticationError": "denied",
    "azure.ResourceNotFoundError": "missing",
    "azure.ServiceRequestError": "unreachable",
    "azure.ServiceResponseError": "unreachable",
    "botocore.CredentialRetrievalError": "denied",
    "botocore.NoAuthTokenError": "denied",
    "botocore.NoCredentialsError": "denied",
    "botocore.PartialCredentialsError": "denied",
    "botocore.SSOError": "denied",
    "botocore.TokenRetrievalError": "denied",
    "botocore.BaseEndpointResolverError": "invalid",
    "botocore.ConfigNotFound": "invalid",
    "botocore.ConfigParseError": "invalid",
    "botocore.ParamValidationError": "invalid",
    "botocore.ProfileNotFound": "invalid",
    "botocore.SSLError": "invalid",
    "botocore.ValidationError": "invalid",
    "botocore.ConnectionError": "unreachable",
    "botocore.HTTPClientError": "unreachable",
    "ftplib.error_perm": "denied",
    "google.DefaultCredentialsError": "denied",
    "google.RefreshError": "denied",
    "google.TransportError": "unreachable",
    "httpx.InvalidURL": "invalid",
    "httpx.TooManyRedirects": "invalid",
    "httpx.UnsupportedProtocol": "invalid",
    "httpx.TransportError": "unreachable",
    "paramiko.AuthenticationException": "denied",
    "paramiko.BadHostKeyException": "denied",
    "paramiko.SSHException": "unreachable",
    "requests.SSLError": "invalid",
}
_STATUSES = {401: "denied", 403: "denied", 407: "denied", 404: "missing", 410: "missing", 429: "throttled"}
_CODES = {
    "SlowDown": "throttled",
    "RequestLimitExceeded": "throttled",
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "TooManyRequestsException": "throttled",
}
_NEVER = frozenset(
    {errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSYS, errno.EISDIR, errno.ENOTSUP, errno.ENOSPC}
)
# Errors in the request or in the library: a retry would fail too.
_OF_PYTHON = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError,
    RecursionError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
# Classes whose name adds nothing to their text.
_PLAIN = (ImportError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Cause:
    """Why a call to a backend failed. ``reason`` is one line without the address; ``retry_after_s`` is the server's
    Retry-After, 0 if it sent none; ``timed_out`` means that a time limit of ours ended the call."""

    kind: str
    reason: str
    retry_after_s: float = 0.0
    timed_out: bool = False

    @property
    def passes(self) -> bool:
        """Whether the failure is transient, so that a retry may succeed."""
        return self.kind in PASSING


def classify(error: Exception) -> Cause:
    """Classify any exception raised by a backend."""
    chain = list(_chain(error, implicit=False))
    # The deepest cause decides: a wrapper may have lost its kind.
    known = next(((link, kind) for link in reversed(chain) if (kind := _kind(link))), None)
    if known is not None and known[1] == "missing":
        # A file counts as missing, and may be pruned, only if no other error was being handled.
        links = _chain(error, implicit=True)
        known = next(
            ((link, kind) for link in links if (kind := _kind(link) or "missing") != "missing"), known
        )
    status = next((code for link in reversed(chain) if (code := _status(link))), None)
    if status is not None and (known is None or (known[1] == "missing" and status not in (404, 410))):
        known = chain[-1], "unreachable"
    elif known is None:
        is_fault = isinstance(error, _OF_PYTHON) and type(error).__module__ == "builtins"
        known = error, "invalid" if is_fault else "other"
    link, kind = known
    return Cause(
        kind,
        _reason(link, status),
        retry_after_s=max((_retry_after_s(link) for link in chain), default=0.0),
        timed_out=any(isinstance(link, TimeoutError) for link in chain),
    )


def _chain(error: BaseException, *, implicit: bool) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < _DEEPEST_CHAIN:
        seen.add(id(link))
        yield link
        context = link.__context__ if implicit and not link.__suppress_context__ else None
        link = link.__cause__ or context


def _kind(link: BaseException) -> str | None:
    """The kind of this exception alone, without its causes; None if unknown."""
    for parent in type(link).__mro__:
        package = str(parent.__module__).partition(".")[0]
        if kind := _CLASSES.get(f"{package}.{parent.__name__}"):
            return kind
    if kind := _CODES.get(_code(link)):
        return kind
    status = _status(link)
    if status is not None:
        return _STATUSES.get(status) or ("unreachable" if status >= 500 else None)
    if isinstance(link, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(link, PermissionError):
        return "denied"
    if isinstance(link, TimeoutError | ConnectionError | EOFError | socket.gaierror):
        return "unreachable"
    if type(link) is OSError and link.errno is None and _text(link).startswith("Forbidden"):
        # gcsfs has no class and no status for 403.
        return "denied"
    if isinstance(link, OSError) and not isinstance(link, ValueError):
        return "invalid" if isinstance(link.errno, int) and link.errno in _NEVER else "unreachable"
    return None


def _status(link: BaseException) -> int | None:
    """The HTTP status of an exception, from any attribute in which libraries put it."""
    response = _attribute(link, "response")
    if isinstance(response, dict):  # botocore
        metadata = response.get("ResponseMetadata")
        return _as_status(metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None)
    places = ((link, "status"), (link, "status_code"), (response, "status_code"), (link, "code"))
    return next((status for place in places if (status := _as_status(_attribute(*place)))), None)


def _as_status(value: Any) -> int | None:
    text = str(value) if isinstance(value, int | str) else ""
    return int(text) if len(text) == 3 and text.isascii() and text.isdigit() and text >= "300" else None


def _attribute(holder: Any, name: str) -> Any:
    """An attribute, None where it is absent or raises."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - whatever a library does in a property
        return None


def _code(link: BaseException) -> str:
    """The error code of an S3 error, such as ``SlowDown``."""
    response = _attribute(link, "response")
    error = response.get("Error") if isinstance(response, dict) else None
    return str(error.get("Code", "")) if isinstance(error, dict) else ""


def _retry_after_s(link: BaseException) -> float:
    """The seconds of a ``Retry-After`` header; 0 for one with a date."""
    get = _attribute(_attribute(link, "headers"), "get")
    try:
        value = str(get("Retry-After", "")) if callable(get) else ""
    except Exception:  # noqa: BLE001 - whatever a library calls headers
        return 0.0
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0.0


def _reason(link: BaseException, status: int | None) -> str:
    """The reason in one line."""
    code = _code(link)
    if type(link).__name__ == "TooManyRedirects":
        text = "the server redirects in a circle"
    elif isinstance(link, OSError) and isinstance(link.strerror, str) and link.strerror and status is None:
        text = link.strerror
    elif status is not None and (_status(link) is not None or isinstance(link, OSError)):
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        said = code if code and not code.isdigit() else phrase
        text = f"the server answered {status} {said}".strip()
    else:
        said = _text(link)
        text = said if said and type(link) in _PLAIN else f"{type(link).__name__}: {said}".removesuffix(": ")
    return " ".join(text.split())[:_LONGEST_REASON]


def _text(link: BaseException) -> str:
    try:
        return str(link)
    except Exception:  # noqa: BLE001 - an exception that cannot be printed is still one
        return ""
