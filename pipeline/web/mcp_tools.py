"""Tools for agents over an archive, by the Model Context Protocol: search, ask, list and show, with pictures.

They do what the page's API does, over the same state and with the same limits. All of them only read.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import version
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi.concurrency import run_in_threadpool
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from malmm.pipeline.archive.filters import scope_of
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.web.api.asked import VideoId
from malmm.pipeline.web.api.cards import cards_of
from malmm.pipeline.web.api.events import Answered, Begun, Done
from malmm.pipeline.web.api.problems import NotThere, problem_of
from malmm.pipeline.web.settings import MOST_RESULTS
from malmm.pipeline.web.state.shared_state import Site
from malmm.pipeline.web.state.videos import Chosen

__all__ = ["MOST_PICTURES", "Answers", "Found", "ShownVideo", "Videos", "mcp_server"]

MOST_PICTURES = 12
_MOST_TEXTS = 1000
_INSTRUCTIONS = (
    "An archive of long videos that was indexed beforehand. `search` finds moments by words, `ask` puts a question to "
    "the memory of the best moments or of whole videos, `list_videos` lists what there is, and `show_video` says what "
    "is known of one video. Times are seconds on the video's own clock. Texts were written by models, and may be wrong."
)

P = ParamSpec("P")
R = TypeVar("R")

Where = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=2000,
        description="only moments that pass a filter, such as camera = 'north' and answer.scene.weather = 'rain'",
    ),
]
Pictures = Annotated[int, Field(ge=0, le=MOST_PICTURES, description="how many pictures to return with it")]


class FoundMoment(BaseModel):
    """A moment [start_s, end_s) of a video, with the caption of its segment and the text that matched."""

    video_id: str
    name: str
    start_s: float
    end_s: float
    score: float
    similarity: float | None
    caption: str | None
    text: str | None


class Found(BaseModel):
    """Moments, best first."""

    moments: list[FoundMoment]


class GivenAnswer(BaseModel):
    """An answer from the memory of [start_s, end_s) of a video, and the times of the moments that it is based on."""

    video_id: str
    name: str
    start_s: float
    end_s: float
    text: str
    cited_s: list[float]


class Answers(BaseModel):
    """Answers to a question; none if nothing relevant was ``found``."""

    found: bool
    answers: list[GivenAnswer]


class ListedVideo(BaseModel):
    """A video."""

    video_id: str
    name: str
    duration_s: float
    caption: str | None
    metadata: str


class Videos(BaseModel):
    """A page of ``total`` videos, latest first; ``next`` is the cursor of the following page, null at the end."""

    total: int
    videos: list[ListedVideo]
    next: int | None


class ShownText(BaseModel):
    """A text about [start_s, end_s): a caption, an answer to a prompt, or what is said."""

    start_s: float
    end_s: float
    prompt: str
    text: str
    score: float | None


class ShownVideo(BaseModel):
    """A video with its texts in time order, at most a thousand; ``left_out`` is how many more there are."""

    video: ListedVideo
    texts: list[ShownText]
    left_out: int


def mcp_server(site: Site) -> MCPServer[Any]:
    """A server with the tools of one archive, or of several served as one."""
    server: MCPServer[Any] = MCPServer(
        "malmm", instructions=_INSTRUCTIONS, version=version("malmm-ray"), log_level="WARNING"
    )

    def tool(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        told = _told(site, function)
        server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))(told)
        return told

    @tool
    async def search(
        query: Annotated[
            str, Field(min_length=1, max_length=500, description="what to look for, in a few words")
        ],
        limit: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 10,
        video_ids: Annotated[list[VideoId] | None, Field(min_length=1, max_length=100)] = None,
        where: Where = None,
        pictures: Pictures = 4,
    ) -> Annotated[CallToolResult, Found]:
        """Find moments by what is seen in them and what texts say of them, best first, with pictures of the first."""
        _check_words("query", query)
        vector = await site.models.vector(query)

        def found() -> tuple[Found, list[bytes]]:
            asked = SearchQuery(
                text=query, k=limit, where=where, video_ids=tuple(video_ids) if video_ids else None
            )
            moments = site.live.searcher.ranked(asked, vector)[:limit]
            cards = cards_of(site, moments)
            fields = FoundMoment.model_fields.keys()
            made = [FoundMoment(**card.model_dump(include=set(fields))) for card in cards]
            return Found(moments=made), _pictures_of(site, moments[:pictures])

        return _result(*await run_in_threadpool(found))

    @tool
    async def ask(
        question: Annotated[str, Field(min_length=1, max_length=1000)],
        video_ids: Annotated[
            list[VideoId] | None,
            Field(
                min_length=1, max_length=20, description="whole videos to ask, instead of the best moments"
            ),
        ] = None,
        where: Where = None,
        k: Annotated[int, Field(ge=1, le=10, description="how many segments answer at most")] = 3,
    ) -> Answers:
        """Answer a question from stored memory, and say on which moments each answer is based."""
        _check_words("question", question)
        for video in video_ids or ():
            await run_in_threadpool(site.videos.row, video)
        if where is not None:
            await run_in_threadpool(scope_of, site.live.reader, where)
        begun: list[Begun] = []
        texts: list[str] = []
        found = False
        async for event in site.models.ask(question, video_ids, k, where):
            if isinstance(event, Begun):
                begun.append(event)
            elif isinstance(event, Answered):
                texts.append(event.text)
            elif isinstance(event, Done):
                found = event.found
        answers = [
            GivenAnswer(
                video_id=each.video_id,
                name=each.name,
                start_s=each.start_s,
                end_s=each.end_s,
                text=text,
                cited_s=[moment.timestamp_s for moment in each.moments],
            )
            for each, text in zip(begun, texts, strict=True)
        ]
        return Answers(found=found, answers=answers)

    @tool
    async def list_videos(
        name: Annotated[str, Field(max_length=200, description="part of the name")] = "",
        where: Where = None,
        limit: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 50,
        cursor: Annotated[int, Field(ge=0, le=10**9, description="`next` of the page before")] = 0,
    ) -> Videos:
        """List the archive's videos, latest first."""
        page = await run_in_threadpool(site.videos.page, Chosen(text=name, where=where), cursor, limit)
        fields = set(ListedVideo.model_fields)
        return Videos(
            total=page.total,
            videos=[ListedVideo(**row.model_dump(include=fields)) for row in page.videos],
            next=None if page.next is None else int(page.next),
        )

    @tool
    async def show_video(
        video_id: VideoId,
        from_s: Annotated[float, Field(ge=0, description="only texts that end after it")] = 0.0,
        to_s: Annotated[float | None, Field(ge=0, description="only texts that begin before it")] = None,
        pictures: Pictures = 4,
    ) -> Annotated[CallToolResult, ShownVideo]:
        """What is known of one video: captions, answers, what is said, and pictures of its memory."""

        def shown() -> tuple[ShownVideo, list[bytes]]:
            row = site.videos.one(video_id)
            reader = site.live.reader
            done = reader.completed_segments(video_id)
            rows = [
                text
                for text in reader.annotations(video_id).to_pylist()
                if (text["segment_id"] is None or text["segment_id"] in done)
                and text["end_s"] >= from_s
                and (to_s is None or text["start_s"] <= to_s)
            ]
            fields = set(ListedVideo.model_fields)
            made = ShownVideo(
                video=ListedVideo(**row.model_dump(include=fields)),
                texts=[
                    ShownText(prompt=text["prompt_name"], **{name: text[name] for name in _TEXT_FIELDS})
                    for text in rows[:_MOST_TEXTS]
                ],
                left_out=max(0, len(rows) - _MOST_TEXTS),
            )
            slots = reader.memory_rows(sorted(done), ("memory_id", "start_s", "end_s")).to_pylist()
            inside = [
                slot["memory_id"]
                for slot in sorted(slots, key=lambda slot: slot["start_s"])
                if slot["end_s"] >= from_s and (to_s is None or slot["start_s"] <= to_s)
            ]
            return made, _slot_pictures(site, _spread(inside, pictures))

        return _result(*await run_in_threadpool(shown))

    return server


_TEXT_FIELDS = ("start_s", "end_s", "text", "score")


def _told(site: Site, function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Tell errors as sentences, and try once more where the archive was given another recipe meanwhile."""

    @functools.wraps(function)
    async def telling(*args: P.args, **options: P.kwargs) -> R:
        try:
            served = site.live.last_uri
            try:
                return await function(*args, **options)
            except (ArchiveError, NotThere):
                if not await run_in_threadpool(site.live.renewed, served):
                    raise
                return await function(*args, **options)
        except Exception as error:
            found = problem_of(error)
            if found is None:
                raise
            raise ToolError(found[1].message) from error

    return telling


def _check_words(name: str, text: str) -> None:
    if not text.strip():
        raise ConfigError(f"{name}: it has no words: give a few, such as 'a red car'")


def _result(made: BaseModel, pictures: Iterable[bytes]) -> CallToolResult:
    shown = [Image(data=picture, format="jpeg").to_image_content() for picture in pictures]
    content: list[TextContent | ImageContent] = [
        TextContent(type="text", text=made.model_dump_json()),
        *shown,
    ]
    return CallToolResult(content=list(content), structured_content=made.model_dump(mode="json"))


def _pictures_of(site: Site, moments: Iterable[Moment]) -> list[bytes]:
    slots = [(moment.slot.segment_id, moment.slot.slot) for moment in moments if moment.slot]
    found = site.live.reader.slots.thumbnails(slots)
    return [found[slot] for slot in slots if found.get(slot)]


def _slot_pictures(site: Site, memory_ids: Iterable[str]) -> list[bytes]:
    found = []
    for memory_id in memory_ids:
        try:
            found.append(site.pictures.of_slot(site.live.reader, memory_id))
        except NotThere:
            # Archives may be made without pictures.
            continue
    return found


def _spread(ids: list[str], count: int) -> list[str]:
    """``count`` of the ids, evenly spread."""
    if len(ids) <= count:
        return ids
    return [ids[place * len(ids) // count + len(ids) // (2 * count)] for place in range(count)]
