"""Requests that a new recipe came between: met anew, from the recipe that took the old one's place."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.web.state.live import LiveArchive

__all__ = ["renewing"]


def renewing(live: LiveArchive) -> type[APIRoute]:
    """Routes that try once more when they failed at the tables of a recipe that is no longer in force.

    What is in force is looked up every few seconds only, and a request may take as long as that.
    """

    class Renewing(APIRoute):
        """A route of this archive."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handled(request: Request) -> Response:
                before = live.last_uri
                try:
                    return await handle(request)
                except ArchiveError:
                    if not await run_in_threadpool(live.renewed, before):
                        raise
                return await handle(request)

            return handled

    return Renewing
