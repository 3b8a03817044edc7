"""Routes that search an archive and ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from malmm.pipeline.archive.filters import scope_of
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.web.api.asked import Asked, VideoId, asked_of
from malmm.pipeline.web.api.cards import cards_of, explaining
from malmm.pipeline.web.api.events import Event, Failed
from malmm.pipeline.web.api.problems import documented, problem_of
from malmm.pipeline.web.api.reindex_retry import renewing
from malmm.pipeline.web.api.response_models import Card, Results
from malmm.pipeline.web.settings import MOST_RESULTS
from malmm.pipeline.web.state.overview import left_out_of
from malmm.pipeline.web.state.pagination import Ranking
from malmm.pipeline.web.state.shared_state import Site

__all__ = ["Question", "finding_routes"]


class Question(BaseModel):
    """A question to the given whole videos or, without ``video_ids``, to the best moments of the archive."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=1000)
    video_ids: list[VideoId] | None = Field(default=None, min_length=1, max_length=20)
    where: str | None = Field(
        default=None, min_length=1, max_length=2000, description="a filter, as docs/filters.md describes"
    )
    k: int = Field(default=3, ge=1, le=10, description="how many segments answer at most")


def finding_routes(site: Site) -> APIRouter:
    """The routes of one archive."""
    routes = APIRouter(
        prefix="/api", responses=documented(401, 403, 422, 503), route_class=renewing(site.live)
    )

    @routes.get("/search", tags=["search"])
    async def search(
        asked: Annotated[Asked, Depends(asked_of)],
        limit: Annotated[int, Query(ge=1, le=MOST_RESULTS, description="moments a page")] = 24,
        cursor: Annotated[
            str | None, Query(pattern="^[0-9a-f]{16}\\.[0-9]{1,6}$", description="`next` of the page before")
        ] = None,
        explain: Annotated[bool, Query(description="say what each signal gave to each moment")] = False,
    ) -> Results:
        """Moments that match a text, best first, by memory vectors and by the archive's texts."""
        name, _, place = (cursor or "").partition(".")
        begin = int(place or 0)
        # Moments of a recipe that is no longer in force have neither thumbnails nor captions any more.
        recipe = await run_in_threadpool(lambda: site.live.reader.uri)
        ranking = site.rankings.find(name, recipe)
        vector = await site.models.vector(asked.text) if ranking is None or explain else None
        if ranking is None:

            def ranked(k: int) -> Sequence[Moment]:
                return site.live.searcher.ranked(asked.query(site, k), vector)

            # If the cursor's search was dropped, or belongs to another replica, search again.
            ranking = Ranking(ranked, recipe)
            name = site.rankings.add(ranking, name)
        found, more = await run_in_threadpool(ranking.part, begin, begin + limit)

        def cards() -> list[Card]:
            if not explain:
                return cards_of(site, found)
            threshold = site.live.searcher.threshold_of(asked.query(site, limit), vector)
            return cards_of(site, found, explaining(threshold))

        shown = await run_in_threadpool(cards)
        return Results(
            moments=shown,
            next=f"{name}.{begin + limit}" if more else None,
            left_out=left_out_of(site.live.reader),
        )

    @routes.post(
        "/ask",
        tags=["ask"],
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "Events while the question is answered: one JSON object a line",
                "content": {
                    "application/x-ndjson": {
                        "schema": TypeAdapter(Event).json_schema(ref_template="#/components/schemas/{model}")
                    }
                },
            },
            **documented(400, 404, 413),
        },
    )
    async def ask(question: Question) -> StreamingResponse:
        """Answer a question from stored memory, word by word, and cite the moments that the answer is based on."""
        if not question.question.strip():
            raise ConfigError(
                "question: an empty question has no answer: ask something, such as 'What happens?'"
            )
        for video in question.video_ids or ():
            await run_in_threadpool(site.videos.row, video)
        if question.where is not None:
            await run_in_threadpool(scope_of, site.live.reader, question.where)
        events = site.models.ask(question.question, question.video_ids, question.k, question.where)
        # Wait for the first event, so that a full queue becomes status 503 instead of a line of the stream.
        return _Lines(await anext(events), events)

    return routes


class _Lines(StreamingResponse):
    """Events as lines. Stops answering when sending ends, for whatever reason."""

    def __init__(self, first: Event, others: AsyncIterator[Event]) -> None:
        self._events = others
        super().__init__(_lines(first, others), media_type="application/x-ndjson")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()


async def _lines(first: Event, others: AsyncIterator[Event]) -> AsyncIterator[str]:
    try:
        yield first.model_dump_json() + "\n"
        async for event in others:
            yield event.model_dump_json() + "\n"
    except Exception as error:
        found = problem_of(error)
        if found is None:
            yield (
                Failed(kind="internal", message="The question could not be answered.").model_dump_json()
                + "\n"
            )
            raise
        yield Failed(kind=found[1].kind, message=found[1].message).model_dump_json() + "\n"
