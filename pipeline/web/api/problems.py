"""What a request is answered with when it cannot be met: a status, a kind for programs and a sentence for people."""

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
    "NotServed",
    "NotThere",
    "Problem",
    "answer_problems",
    "documented",
    "problem_of",
    "problem_response",
]


class Problem(BaseModel):
    """Why a request was not met."""

    kind: str
    message: str


class NotThere(MalmmError):  # noqa: N818 - it says what it is
    """Something that the archive does not hold."""


class NotServed(MalmmError):  # noqa: N818 - it says what it is
    """A file that this server may not read."""


class Busy(MalmmError):  # noqa: N818 - it says what it is
    """As many wait already as may."""


def problem_of(error: Exception) -> tuple[int, Problem] | None:
    """Status and problem of an error that was raised on purpose; None for a mistake of ours."""
    known: list[tuple[type[Exception], int, str]] = [
        (NotThere, 404, "not_found"),
        (NotServed, 403, "media_not_served"),
        (Busy, 503, "busy"),
        (ConfigError, 422, "invalid"),
        (ArchiveError, 503, "archive"),
    ]
    if isinstance(error, MediaError):
        # The store's own words may hold addresses and names that are nobody's business.
        if error.kind == "missing":
            return 404, Problem(
                kind="media_missing", message="The video file is not where it was when it was indexed."
            )
        return 502, Problem(kind="media_unreachable", message="The video file cannot be read at present.")
    for kind, status, name in known:
        if isinstance(error, kind):
            return status, Problem(kind=name, message=str(error))
    # The model's own errors are ValueErrors of its package, which a light server never loads.
    if any(base.__name__ == "CheckpointError" for base in type(error).__mro__):
        return 503, Problem(kind="model", message=str(error))
    return None


def problem_response(status: int, problem: Problem) -> JSONResponse:
    """The answer that says so."""
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse(problem.model_dump(), status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's ``responses``: problems that it may answer with."""
    return {status: {"model": Problem} for status in statuses}


def answer_problems(app: FastAPI) -> None:
    """Have errors answered as problems, each with one sentence."""

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
