"""Error responses: a status, a ``kind`` for programs and a sentence for users."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from malmm.pipeline.schema.errors import ArchiveError, ConfigError, MalmmError, MediaError

__all__ = [
    "Busy",
    "NotAllowed",
    "NotServed",
    "NotThere",
    "Problem",
    "answer_problems",
    "documented",
    "problem_of",
    "problem_response",
]


class Problem(BaseModel):
    """The body of an error response."""

    kind: str
    message: str


class NotThere(MalmmError):  # noqa: N818 - it says what it is
    """The archive does not have what was requested."""


class NotServed(MalmmError):  # noqa: N818 - it says what it is
    """This server may not read the file."""


class NotAllowed(MalmmError):  # noqa: N818 - it says what it is
    """The visitor's token lacks the right."""


class Busy(MalmmError):  # noqa: N818 - it says what it is
    """The queue is full."""


def problem_of(error: Exception) -> tuple[int, Problem] | None:
    """Status and body for an exception that was raised on purpose; None for any other (a bug)."""
    known: list[tuple[type[Exception], int, str]] = [
        (NotThere, 404, "not_found"),
        (NotServed, 403, "media_not_served"),
        (NotAllowed, 403, "right"),
        (Busy, 503, "busy"),
        (ConfigError, 422, "invalid"),
        (ArchiveError, 503, "archive"),
    ]
    if isinstance(error, MediaError):
        # Not the store's own message: it may contain addresses and names that a visitor must not see.
        if error.kind == "missing":
            return 404, Problem(
                kind="media_missing", message="The video file is not where it was when it was indexed."
            )
        return 502, Problem(kind="media_unreachable", message="The video file cannot be read at present.")
    for kind, status, name in known:
        if isinstance(error, kind):
            return status, Problem(kind=name, message=str(error))
    # By name: a server without models never imports the package of CheckpointError.
    if any(base.__name__ == "CheckpointError" for base in type(error).__mro__):
        return 503, Problem(kind="model", message=str(error))
    return None


def problem_response(status: int, problem: Problem) -> JSONResponse:
    """The error response."""
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse(problem.model_dump(), status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for its ``responses``."""
    return {status: {"model": Problem} for status in statuses}


def answer_problems(app: FastAPI) -> None:
    """Register handlers that turn exceptions into error responses."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        found = problem_of(error)
        if found is None:
            raise error
        return problem_response(*found)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        message = "the request cannot be understood"
        if isinstance(error, RequestValidationError) and error.errors():
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
            message = f"{where or 'the request'}: {first['msg']}"
        return problem_response(422, Problem(kind="invalid", message=message))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        problem = Problem(kind=_KINDS.get(error.status_code, "refused"), message=str(error.detail))
        return JSONResponse(problem.model_dump(), error.status_code, error.headers)

    app.add_exception_handler(MalmmError, on_error)
    app.add_exception_handler(ValueError, on_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


_KINDS = {404: "not_found", 405: "method", 415: "content_type"}
