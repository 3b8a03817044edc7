"""Routes to sign in: a browser sends the token once and gets a cookie that scripts cannot read."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from malmm.pipeline.web.access import LOCAL, Access
from malmm.pipeline.web.api.problems import Problem, documented, problem_response
from malmm.pipeline.web.api.response_models import Health, Session
from malmm.pipeline.web.auth import COOKIE
from malmm.pipeline.web.state.shared_state import Site

__all__ = ["SignIn", "session_routes"]


class SignIn(BaseModel):
    """A request to sign in, with the token that the server was started with."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(max_length=1000)


def session_routes(site: Site) -> APIRouter:
    """The routes of one archive. They need no token."""
    routes = APIRouter(prefix="/api", tags=["session"], responses=documented(403))

    @routes.get("/health")
    async def get_health() -> Health:
        """Report that the server is up."""
        return Health(status="ok")

    @routes.get("/session")
    async def get_session(request: Request) -> Session:
        """Whether the visitor has access."""
        return _session(site, site.keys.visitor(request.headers))

    @routes.post("/session", responses=documented(400, 401, 413, 422))
    async def sign_in(given: SignIn, request: Request, response: Response) -> Session:
        """Exchange the token for a cookie."""
        visitor = site.keys.owner(given.token)
        if visitor is None:
            return problem_response(401, Problem(kind="token", message="The token is wrong."))  # type: ignore[return-value]
        if site.keys.needed:
            response.set_cookie(
                COOKIE,
                site.keys.cookie(given.token),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
                max_age=30 * 24 * 3600,
            )
        return _session(site, visitor)

    @routes.delete("/session")
    async def sign_out(response: Response) -> Session:
        """Delete the cookie."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return _session(site, None if site.keys.needed else LOCAL)

    return routes


def _session(site: Site, visitor: Access | None) -> Session:
    return Session(
        open=visitor is not None,
        token_needed=site.keys.needed,
        name=visitor.name if visitor else None,
        may_review=visitor is not None and visitor.may_review,
    )
