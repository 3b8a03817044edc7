"""Routes that group what a search finds: by video, and by facets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool

from malmm.pipeline.searching.facets import facets_of
from malmm.pipeline.searching.groups import best_videos
from malmm.pipeline.web.api.asked import Asked, asked_of
from malmm.pipeline.web.api.cards import cards_of
from malmm.pipeline.web.api.problems import documented
from malmm.pipeline.web.api.reindex_retry import renewing
from malmm.pipeline.web.api.response_models import Facet, Facets, FoundVideo
from malmm.pipeline.web.state.shared_state import Site

__all__ = ["grouping_routes"]

_MOST_VIDEOS, _MOST_EACH = 50, 20
_COUNTED = 10


def grouping_routes(site: Site) -> APIRouter:
    """The routes of one archive."""
    routes = APIRouter(
        prefix="/api/search", responses=documented(401, 403, 422, 503), route_class=renewing(site.live)
    )

    @routes.get("/videos", tags=["search"])
    async def search_videos(
        asked: Annotated[Asked, Depends(asked_of)],
        limit: Annotated[int, Query(ge=1, le=_MOST_VIDEOS, description="how many videos")] = 12,
        each: Annotated[int, Query(ge=1, le=_MOST_EACH, description="moments a video")] = 3,
    ) -> list[FoundVideo]:
        """The videos with the best moments for a text, best first, each with its best moments."""
        vector = await site.models.vector(asked.text)

        def found() -> list[FoundVideo]:
            groups = best_videos(
                lambda k: site.live.searcher.ranked(asked.query(site, k), vector), limit, each=each
            )
            cards = iter(cards_of(site, [moment for group in groups for moment in group.moments]))
            videos = []
            for group in groups:
                own = [next(cards) for _ in group.moments]
                videos.append(
                    FoundVideo(video_id=group.video_id, name=own[0].name, found=group.found, moments=own)
                )
            return videos

        return await run_in_threadpool(found)

    @routes.get("/facets", tags=["search"])
    async def search_facets(asked: Annotated[Asked, Depends(asked_of)]) -> Facets:
        """How the best moments for a text are spread over videos, days, labels and metadata; each with a filter."""
        vector = await site.models.vector(asked.text)

        def found() -> Facets:
            searcher = site.live.searcher
            moments = searcher.ranked(asked.query(site, _COUNTED), vector)
            facets = [Facet(**facet.to_dict()) for facet in facets_of(searcher.archive, moments)]
            return Facets(moments=len(moments), facets=facets)

        return await run_in_threadpool(found)

    return routes
