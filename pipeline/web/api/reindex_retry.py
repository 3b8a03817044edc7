"""Retry a request once if a reindexed archive replaced the tables that it was reading."""

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
    """A route class that retries a request which failed on the tables of a recipe that is no longer in force.

    Needed because the recipe in force is looked up only every few seconds, and a request may be in flight meanwhile.
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
