"""Media roots: a server reads only video files below the roots that its operator named.

An archive may have been written by somebody else, so an address in a row is not trusted. A local file is opened folder
by folder from its root, without following links, so that nothing can be swapped between the check and the read. A
remote address is compared after its escapes are decoded. ``malmm.pipeline.web.checked_http`` fetches web addresses.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO
from urllib.parse import unquote

from malmm.pipeline.schema.errors import ConfigError, MediaError
from malmm.pipeline.web.api.problems import NotServed

__all__ = ["HTTP_SCHEMES", "SCHEMES", "Address", "MediaRoots", "is_root"]

HTTP_SCHEMES = ("http", "https")
_SAME = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
SCHEMES = (*HTTP_SCHEMES, "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes that a server opens besides local files."""

_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DECODED_AT_MOST = 4
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, since opening a pipe would wait for ever; that it is not a regular file is checked afterwards.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REFUSED = (
    "The file of this video lies outside of this server's media roots, so thumbnails of its memory are shown but not "
    "the video. To allow it, start the server with --media-root and the file's folder or address."
)


@dataclass(frozen=True)
class Address:
    """A remote address in canonical form, for comparing: no escapes, no default port."""

    scheme: str
    authority: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> Address | None:
        """Parse a URI. None if it is never opened: another scheme, a chain, a user name, a path with ``..``."""
        name, separator, rest = uri.partition("://")
        scheme = name.lower()
        if not separator or scheme not in SCHEMES or "\\" in uri or _CONTROL.search(uri):
            return None
        # `::` chains file systems in fsspec, so that one address opens another.
        if scheme not in HTTP_SCHEMES and "::" in uri:
            return None
        if scheme in HTTP_SCHEMES:
            rest = re.split(r"[?#]", rest, maxsplit=1)[0]
        authority, _, path = rest.partition("/")
        if scheme in HTTP_SCHEMES:
            if "@" in authority:
                return None
            authority = authority.lower().removesuffix(_DEFAULT_PORT[scheme])
            decoded = _decoded(path)
            if decoded is None:
                return None
            path = decoded
        if not authority or {".", ".."} & set(path.split("/")):
            return None
        return cls(_SAME.get(scheme, scheme), authority, path)

    def holds(self, other: Address) -> bool:
        """Whether the other address equals this one or lies below it."""
        if (self.scheme, self.authority) != (other.scheme, other.authority):
            return False
        folder = self.path.rstrip("/")
        return not folder or other.path in (self.path, folder) or other.path.startswith(f"{folder}/")


class MediaRoots:
    """Folders, files and address prefixes from which a server reads video. Without any, it reads none."""

    def __init__(self, roots: Iterable[str] = ()) -> None:
        """Raises ConfigError for a root that is neither a path nor an address of a scheme in ``SCHEMES``."""
        self.names = tuple(roots)
        self._folders: list[str] = []
        self._addresses: list[Address] = []
        for root in self.names:
            local = _local(root)
            if local is not None:
                expanded = os.path.expanduser(local)  # noqa: PTH111 - a str, which may hold anything
                self._folders.append(os.path.realpath(expanded))
                continue
            address = Address.parse(root)
            if address is None:
                raise ConfigError(
                    f"--media-root {root!r}: a folder, a file, or an address without '..' that begins with one of "
                    f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}"
                )
            self._addresses.append(address)

    def permits(self, uri: str) -> bool:
        """Whether the file at this URI may be read. Resolves links of local paths and does nothing else."""
        local = _local(uri)
        if local is not None:
            return self._place(local) is not None
        return self.permits_address(uri)

    def permits_address(self, uri: str) -> bool:
        """Whether a remote address lies below one of the roots."""
        address = Address.parse(uri)
        return address is not None and any(root.holds(address) for root in self._addresses)

    def open_local(self, uri: str) -> IO[bytes] | None:
        """Open a local file for reading; None for a remote address.

        Raises NotServed if it lies outside of the roots, and MediaError of kind ``missing`` or ``unreachable``.
        """
        local = _local(uri)
        if local is None:
            return None
        place = self._place(local)
        if place is None:
            raise NotServed(_REFUSED)
        try:
            return _opened_below(*place)
        except FileNotFoundError as error:
            raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):  # a link was swapped in after the check
                raise NotServed(_REFUSED) from error
            raise MediaError(f"{uri} cannot be opened: {error}", uri=uri, kind="unreachable") from error

    def require_address(self, uri: str) -> None:
        """Raise NotServed unless a remote address lies below one of the roots."""
        if not self.permits_address(uri):
            raise NotServed(_REFUSED)

    def _place(self, path: str) -> tuple[str, list[str]] | None:
        """The root that contains a file, after resolving links, and the names from there to it. None outside of all.

        Hidden files and folders below a root are not served, as listing a directory skips them too.
        """
        if not path.startswith("/") or "\0" in path:
            return None
        real = os.path.realpath(path)
        for root in self._folders:
            if real == root:
                return root, []
            below = real.removeprefix(f"{root.rstrip('/')}/")
            if below != real and not any(name.startswith(".") for name in below.split("/")):
                return root, below.split("/")
        return None


def is_root(root: str) -> bool:
    """Whether ``MediaRoots`` accepts it."""
    return _local(root) is not None or Address.parse(root) is not None


def _local(uri: str) -> str | None:
    """The path of a local file given plainly or as ``file://``; None for other schemes."""
    if uri.startswith("file://"):
        return uri.removeprefix("file://")
    return None if "://" in uri else uri


def _decoded(path: str) -> str | None:
    """The path with all escapes decoded; None if it has control characters, backslashes or too many layers."""
    for _ in range(_DECODED_AT_MOST):
        plain = unquote(path)
        if plain == path:
            return None if _CONTROL.search(path) or "\\" in path else path
        path = plain
    return None


def _opened_below(root: str, names: list[str]) -> IO[bytes]:
    """Open a file by its names below a real path, following no link. Raises OSError."""
    if not names:
        return _regular(os.open(root, _FILE))
    folder = os.open(root, _FOLDER)
    try:
        for name in names[:-1]:
            inner = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        return _regular(os.open(names[-1], _FILE, dir_fd=folder))
    finally:
        os.close(folder)


def _regular(descriptor: int) -> IO[bytes]:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "rb")
