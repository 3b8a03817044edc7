"""Routes that search an archive and ask it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from malmm.pipeline.archive.joined import members_of
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.web.api.events import Event, Failed
from malmm.pipeline.web.api.problems import documented, problem_of
from malmm.pipeline.web.api.reindex_retry import renewing
from malmm.pipeline.web.api.response_models import Card, Results, spans_of
from malmm.pipeline.web.display_names import name_of
from malmm.pipeline.web.settings import MOST_RESULTS
from malmm.pipeline.web.state.overview import left_out_of
from malmm.pipeline.web.state.pagination import Ranking
from malmm.pipeline.web.state.shared_state import Site
from malmm.pipeline.web.state.videos import Chosen

__all__ = ["Question", "finding_routes"]

_MOST_VIDEOS = 100
_VIDEO_ID = "^[0-9a-f]{24}$"
VideoId = Annotated[str, Field(pattern=_VIDEO_ID)]


class Question(BaseModel):
    """A question to the given whole videos or, without ``video_ids``, to the best moments of the archive."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1, max_length=1000)
    video_ids: list[VideoId] | None = Field(default=None, min_length=1, max_length=20)
    k: int = Field(default=3, ge=1, le=10, description="how many segments answer at most")


def finding_routes(site: Site) -> APIRouter:
    """The routes of one archive."""
    routes = APIRouter(
        prefix="/api", responses=documented(401, 403, 422, 503), route_class=renewing(site.live)
    )

    @routes.get("/search", tags=["search"])
    async def search(
        text: Annotated[str, Query(min_length=1, max_length=500, description="what to look for")],
        video: Annotated[
            list[VideoId], Query(max_length=_MOST_VIDEOS, description="only in these videos")
        ] = [],  # noqa: B006 - FastAPI copies it
        since: Annotated[datetime | None, Query(description="only in videos indexed then or later")] = None,
        until: Annotated[datetime | None, Query(description="only in videos indexed before")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_RESULTS, description="moments a page")] = 24,
        cursor: Annotated[
            str | None, Query(pattern="^[0-9a-f]{16}\\.[0-9]{1,6}$", description="`next` of the page before")
        ] = None,
    ) -> Results:
        """Moments that match a text, best first, by memory vectors and by the archive's texts."""
        name, _, place = (cursor or "").partition(".")
        begin = int(place or 0)
        # Moments of a recipe that is no longer in force have neither thumbnails nor captions any more.
        recipe = await run_in_threadpool(lambda: site.live.reader.uri)
        ranking = site.rankings.find(name, recipe)
        if ranking is None:
            if not text.strip():
                raise ConfigError("text: an empty query finds nothing: give a few words, such as 'a red car'")
            vector = await site.models.vector(text)
            chosen = Chosen(tuple(video), since=since, until=until)

            def ranked(k: int) -> Sequence[Moment]:
                ids = site.videos.chosen_ids(chosen)
                query = SearchQuery(text=text, k=k, video_ids=None if ids is None else tuple(ids))
                return site.live.searcher.ranked(query, vector)

            # If the cursor's search was dropped, or belongs to another replica, search again.
            ranking = Ranking(ranked, recipe)
            name = site.rankings.add(ranking, name)
        found, more = await run_in_threadpool(ranking.part, begin, begin + limit)
        cards = await run_in_threadpool(_cards, site, found)
        return Results(
            moments=cards,
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
            **documented(400, 413),
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
        events = site.models.ask(question.question, question.video_ids, question.k)
        # Wait for the first event, so that a full queue becomes status 503 instead of a line of the stream.
        return _Lines(await anext(events), events)

    return routes


def _cards(site: Site, moments: Sequence[Moment]) -> list[Card]:
    searcher = site.live.searcher
    shown = searcher.shown(moments, thumbnails=False)
    rows = site.videos.columns().of([found.video_id for found in shown])
    # The browser will request the thumbnails one by one: read them all at once.
    site.pictures.fetch(searcher.archive, [(m.slot.segment_id, m.slot.slot) for m in moments if m.slot])
    several = members_of(searcher.archive) is not None
    cards = []
    for moment, found in zip(moments, shown, strict=True):
        key = memory_id(moment.slot.segment_id, moment.slot.slot) if moment.slot else None
        cards.append(
            Card(
                video_id=found.video_id,
                name=name_of(found.uri),
                segment_id=found.segment_id,
                start_s=found.start_s,
                end_s=found.end_s,
                timestamp_s=found.timestamp_s,
                video_start_s=rows[found.video_id]["start_s"] if found.video_id in rows else 0.0,
                score=found.score,
                similarity=found.similarity,
                signals=list(found.signals),
                caption=found.caption,
                text=found.text,
                thumbnail=f"api/memories/{key}/thumbnail" if key else None,
                spans=spans_of(found.spans),
                archive=found.archive if several else None,
            )
        )
    return cards


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
