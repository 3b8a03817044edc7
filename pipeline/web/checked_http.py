"""Fetch ranges of web files for the page, protected against server-side request forgery (SSRF).

The first address lies below a ``--media-root``. The server there may redirect (a CDN does), and every hop is checked
before anything is sent: its scheme, its host name, and the addresses that the name resolves to. The connection goes to
the address that was checked, so a name that resolves differently a moment later does no harm (DNS rebinding).

A host that a root names may be in a private network, such as a company's file server. Loopback and link-local addresses
(where clouds serve credentials) must be named by number or as ``localhost``. Hosts that no root names must be public.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

__all__ = ["CheckedFile", "CheckedHttp", "is_allowed"]

_MOST_HOPS = 5
_CONNECT_S, _READ_S = 10.0, 30.0
_PIECE_BYTES, _FETCHED_BYTES = 1 << 16, 1 << 22
_REDIRECTS = (301, 302, 303, 307, 308)
# Characters that may stand in a path or a query, and existing escapes.
_UNESCAPED = "%/?:@!$&'()*+,;=[]~"
_TOTAL = re.compile(r"bytes (?:[0-9]+-[0-9]+|\*)/([0-9]+)")
_SHARED = ipaddress.ip_network("100.64.0.0/10")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], list[str]]


def resolved(host: str, port: int) -> list[str]:
    """The addresses of a host, by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def is_allowed(address: str, host: str, *, named: bool) -> bool:
    """Whether a connection may go to ``address``, to which ``host`` resolved.

    ``named`` says that a media root covers the request. Public addresses are allowed, and private ones for named hosts.
    Loopback, link-local and other special addresses are allowed only if a named host is that number, or loopback as
    ``localhost``.
    """
    try:
        found = _embedded(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if found.is_multicast or found.is_unspecified:
        return False
    # Python calls global what only a local network routes: `fec0::`, `::127.0.0.1`, and a local NAT64's addresses.
    is_local = found.is_reserved or getattr(found, "is_site_local", False)
    if found.is_global and not is_local:
        return True
    if not named:
        return False
    if host == address.partition("%")[0]:
        return True
    if found.is_loopback:
        return host == "localhost"
    private = found.is_private or found in _SHARED
    return private and not found.is_link_local and not found.is_reserved


class CheckedFile:
    """A file's bytes, fetched some megabytes at a time. For one reader."""

    def __init__(self, url: str, web: CheckedHttp, size_bytes: int) -> None:
        self._url, self._web, self._size = url, web, size_bytes
        self._position, self._end = 0, size_bytes
        self._begin, self._data = 0, b""

    def seek(self, position: int) -> int:
        """Move the position. Fetches nothing."""
        self._position = position
        return position

    def settled(self, end: int) -> None:
        """Fetch nothing beyond ``end``."""
        self._end = min(end, self._size)

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; nothing at the end. Raises OSError."""
        offset = self._position - self._begin
        if not 0 <= offset < len(self._data):
            end = min(self._end, self._position + max(size, _FETCHED_BYTES))
            if end <= self._position:
                return b""
            self._begin, offset = self._position, 0
            self._data = self._web.cat_file(self._url, self._begin, end)
        part = self._data[offset : offset + size]
        self._position += len(part)
        return part

    def close(self) -> None:
        """Drop the fetched bytes. No connection is kept open."""
        self._data = b""

    def __enter__(self) -> CheckedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CheckedHttp:
    """Sizes and ranges of web files. Safe to use from several threads.

    ``permits`` says whether an address lies below a root. Raises FileNotFoundError for 404 and 410, PermissionError for
    401, 403 and anything that is not allowed, and other OSErrors for transient failures.
    """

    def __init__(self, permits: Callable[[str], bool], resolve: Resolve = resolved) -> None:
        self._permits, self._resolve = permits, resolve

    def info(self, url: str) -> dict[str, Any]:
        """Size, type and validators of a file, from a request for its first byte."""
        with self._answered(url, (0, 1)) as answer:
            headers = {name.lower(): value for name, value in answer.getheaders()}
            if answer.status == 200:
                size = headers.get("content-length", "")
            else:
                match = _TOTAL.fullmatch(headers.get("content-range", "").strip())
                size = match[1] if match else ""
            if not size.isdigit():
                raise PermissionError(f"{url} does not tell its size, so it cannot be played by range")
            return {
                "size": int(size),
                "etag": headers.get("etag", ""),
                "last_modified": headers.get("last-modified", ""),
            }

    def cat_file(self, url: str, start: int, end: int) -> bytes:
        """The bytes [start, end)."""
        with self._answered(url, (start, end)) as answer:
            # A server without range support sends the whole file.
            skipped = start if answer.status == 200 else 0
            while skipped:
                piece = answer.read(min(_PIECE_BYTES, skipped))
                if not piece:
                    return b""
                skipped -= len(piece)
            return answer.read(end - start)

    @contextlib.contextmanager
    def _answered(self, url: str, span: tuple[int, int]) -> Iterator[http.client.HTTPResponse]:
        """The response after all redirects: 200, 206, or 416 for an empty file."""
        asked = url
        for _ in range(_MOST_HOPS):
            connection = self._connection(url)
            answer = None
            try:
                _send(connection, url, span)
                answer = connection.getresponse()
                if answer.status in _REDIRECTS:
                    url = _next_hop(url, answer.getheader("Location") or "")
                    continue
                _check_status(asked, answer.status)
                yield answer
                return
            except http.client.HTTPException as error:
                raise OSError(f"the server of {asked} gave no proper answer: {error!r}") from error
            finally:
                # A response that ends the connection must be closed by itself.
                if answer is not None:
                    answer.close()
                connection.close()
        raise PermissionError(f"{asked} redirects more than {_MOST_HOPS} times")

    def _connection(self, url: str) -> http.client.HTTPConnection:
        """Connect to an address that was checked."""
        parts = urlsplit(url)
        try:
            host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
            name = host if _is_number(host) else host.encode("idna").decode()
        except ValueError as error:  # an invalid port, an invalid name
            raise PermissionError(f"{url} is not an address: {error}") from error
        if not host or parts.username is not None:
            raise PermissionError(f"{url} is not an address that is fetched")
        addresses = self._resolve(name, port)
        named = self._permits(url)
        if not addresses or not all(is_allowed(each, host, named=named) for each in addresses):
            raise PermissionError(f"{host} is in a network that is not fetched from")
        sock = _connected(addresses, port)
        try:
            if parts.scheme == "https":
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=name)
            sock.settimeout(_READ_S)
        except BaseException:
            sock.close()
            raise
        connection = http.client.HTTPConnection(name, port)
        connection.sock = sock
        return connection


def _connected(addresses: list[str], port: int) -> socket.socket:
    failed: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_CONNECT_S)
        except OSError as error:
            failed = error
    raise failed or OSError("no address")


def _send(connection: http.client.HTTPConnection, url: str, span: tuple[int, int]) -> None:
    parts = urlsplit(url)
    target = quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", safe=_UNESCAPED)
    connection.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", parts.netloc)
    connection.putheader("Range", f"bytes={span[0]}-{span[1] - 1}")
    connection.putheader("Accept-Encoding", "identity")
    connection.endheaders()


def _next_hop(url: str, location: str) -> str:
    """The target of a redirect. Raises PermissionError for another scheme, and from HTTPS to HTTP."""
    following = urljoin(url, location)
    before, after = urlsplit(url).scheme, urlsplit(following).scheme
    if not location or after not in ("http", "https") or (before, after) == ("https", "http"):
        raise PermissionError(f"{url} redirects to {following!r}, which is not followed")
    return following


def _check_status(url: str, status: int) -> None:
    if status in (200, 206, 416):
        return
    if status in (404, 410):
        raise FileNotFoundError(f"no such file: {url}")
    if status in (401, 403):
        raise PermissionError(f"{url} may not be read")
    raise OSError(f"the server of {url} answers {status}")


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _embedded(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address embedded in an IPv6 address, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
    return address
