"""Authentication and limits: checks every request before it reaches a route.

Without a token (loopback only) any program on this machine may read. Pages of other sites may not: DNS rebinding is
refused by the ``Host`` header, cross-site requests by ``Sec-Fetch-Site``. With a token, a request needs it as a bearer
token, or the cookie that this server derived from it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from malmm.pipeline.web.access import LOCAL, Access
from malmm.pipeline.web.api.problems import Problem, problem_response
from malmm.pipeline.web.settings import MOST_BODY_BYTES

__all__ = ["COOKIE", "Guard", "Keys"]

COOKIE = "malmm_session"
_TOO_LARGE = f"A request holds at most {MOST_BODY_BYTES} bytes."
_OPEN = ("/", "/api/session", "/api/health")
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "media-src 'self'",
        "connect-src 'self'",
        "manifest-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Keys:
    """Compares tokens. Without a token, all have access, and may review.

    ``token`` is one without a name, which may read; ``named`` are those with a name and a right.
    """

    def __init__(self, token: str | None, named: Sequence[Access] = ()) -> None:
        self._known = [*named, *([Access("visitor", "read", token)] if token is not None else [])]

    @property
    def needed(self) -> bool:
        """Whether access needs a token."""
        return bool(self._known)

    def owner(self, token: str) -> Access | None:
        """Whose token this is, compared in constant time with all of them; None if nobody's."""
        return self._found(token, lambda access: access.token)

    def cookie(self, token: str) -> str:
        """The cookie that stands for a token."""
        return hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()

    def visitor(self, headers: Headers) -> Access | None:
        """Whose token or cookie a request's headers carry; None if nobody's."""
        if not self._known:
            return LOCAL
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.owner(token.strip())
        try:
            held = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return None
        if held is None:
            return None
        return self._found(held.value, lambda access: self.cookie(access.token))

    def _found(self, given: str, wanted: Callable[[Access], str]) -> Access | None:
        if not self._known:
            return LOCAL
        found = None
        for access in self._known:
            # All are compared, whichever fits, so that the time says nothing.
            if hmac.compare_digest(given.encode(), wanted(access).encode()):
                found = access
        return found


class Guard:
    """ASGI middleware: refuses requests that may not pass, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, *, keys: Keys, hosts: frozenset[str] | None) -> None:
        """``hosts`` are the allowed names in the ``Host`` header; None for any."""
        self.app, self.keys, self.hosts = app, keys, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    given.setdefault(name, value)
                given.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await problem_response(*refusal)(scope, receive, send_guarded)
            return
        await self.app(scope, _bounded(receive), send_guarded)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, Problem] | None:
        if self.hosts is not None and _name_of(headers.get("host", "")) not in self.hosts:
            return 421, Problem(
                kind="host", message="This server has another host name: open the address that it printed."
            )
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(("/api/", "/mcp")) and headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            return 403, Problem(kind="origin", message="Pages of other sites may not use this archive.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BODY_BYTES:
            return 413, Problem(kind="too_large", message=_TOO_LARGE)
        if path in _OPEN or path.startswith("/static/") or self.keys.visitor(headers) is not None:
            return None
        return 401, Problem(
            kind="token", message="This archive needs a token: sign in, or send it as a bearer token."
        )


def _bounded(receive: Receive) -> Receive:
    """Refuse a body that exceeds the limit, whatever its Content-Length says."""
    seen = 0

    async def received() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > MOST_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
        return message

    return received


def _name_of(host: str) -> str:
    """A ``Host`` header without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
