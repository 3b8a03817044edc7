"""The tools for agents, through the SDK's own client: in this process, over pipes, and over HTTP without a network."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import anyio
import httpx2
import numpy as np
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.stdio import stdio_server
from PIL import Image
from support.old_archive import unpacked

from malmm.pipeline.web.access import Access
from malmm.pipeline.web.api.events import Event
from malmm.pipeline.web.app import make_site
from malmm.pipeline.web.mcp_tools import mcp_server
from malmm.pipeline.web.mcp_transports import make_mcp_app, serve_mcp_on_stdio
from malmm.pipeline.web.models import LocalModels
from malmm.pipeline.web.settings import ServeConfig
from malmm.pipeline.web.state.shared_state import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = ServeConfig(unpacked(tmp_path_factory.mktemp("archive")))
    made, own = make_site(config)
    yield made
    assert own is not None
    own.close()


def called(site: Site, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """What the tools return."""

    async def call() -> list[Any]:
        async with Client(mcp_server(site)) as client:
            return [await client.call_tool(name, given) for name, given in calls]

    return asyncio.run(call())


def pictures_in(result: Any) -> list[Image.Image]:
    found = [each for each in result.content if each.type == "image"]
    assert all(each.mime_type == "image/jpeg" for each in found)
    return [Image.open(io.BytesIO(base64.b64decode(each.data))) for each in found]


def test_tools_only_read_and_say_what_they_take_and_give(site: Site) -> None:
    async def listed() -> Any:
        async with Client(mcp_server(site)) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in asyncio.run(listed())}
    assert list(tools) == ["search", "ask", "list_videos", "show_video"]
    for tool in tools.values():
        assert tool.description
        assert tool.annotations.read_only_hint
        assert tool.output_schema
    assert tools["search"].input_schema["properties"]["limit"]["maximum"] == 100


def test_an_agent_lists_searches_shows_and_asks(site: Site) -> None:
    listed, found = called(
        site, ("list_videos", {}), ("search", {"query": "a yellow square", "limit": 3, "pictures": 2})
    )
    videos = {row["name"]: row["video_id"] for row in listed.structured_content["videos"]}
    assert set(videos) == {"0.mp4", "1.mp4", "2.mp4"}
    best = found.structured_content["moments"][0]
    assert best["name"] == "1.mp4"
    assert best["end_s"] > 0.0
    assert len(found.structured_content["moments"]) == 3
    assert len(pictures_in(found)) == 2
    shown, some, asked = called(
        site,
        ("show_video", {"video_id": videos["1.mp4"]}),
        ("show_video", {"video_id": videos["1.mp4"], "from_s": 18.0, "pictures": 0}),
        ("ask", {"question": "What appears first?", "video_ids": [videos["1.mp4"]]}),
    )
    texts = shown.structured_content["texts"]
    assert any("yellow square" in text["text"] for text in texts)
    assert len(pictures_in(shown)) == 4
    assert pictures_in(some) == []
    assert 0 < len(some.structured_content["texts"]) < len(texts)
    [answer] = asked.structured_content["answers"]
    assert answer["text"] == "a yellow square"
    assert answer["name"] == "1.mp4"


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("show_video", {"video_id": "0" * 24}, "The archive holds no such video."),
        ("show_video", {"video_id": "../etc"}, "video_id"),
        ("search", {"query": " "}, "it has no words"),
        ("search", {"query": "a", "limit": 1000}, "less than or equal to 100"),
        ("search", {"query": "a", "where": "colour = 'x'"}, "there is no column 'colour'"),
        ("ask", {"question": "What?", "video_ids": ["0" * 24]}, "The archive holds no such video."),
        ("list_videos", {"where": "("}, "the filter"),
    ],
)
def test_wrong_requests_are_told_in_a_sentence(
    site: Site, tool: str, given: dict[str, Any], said: str
) -> None:
    [result] = called(site, (tool, given))
    assert result.is_error
    assert said in result.content[0].text


class Unasked(LocalModels):
    """Models that no request of the test needs."""

    def __init__(self) -> None:
        """Load nothing."""

    async def vector(self, text: str) -> np.ndarray | None:
        raise AssertionError(text)

    def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[Event]:
        raise AssertionError(question)


def test_over_http_with_the_pages_tokens(site: Site, tmp_path: Path) -> None:
    token = Access("agent", "read", "correct-horse-battery")
    config = ServeConfig(site.live.reader.root, host="0.0.0.0", tokens=(token,))  # noqa: S104
    app = make_mcp_app(config, Unasked())

    async def through(headers: dict[str, str]) -> Any:
        transport = httpx2.ASGITransport(app=app)
        async with (
            httpx2.AsyncClient(
                transport=transport, base_url="http://films.example.org", headers=headers
            ) as http,
            Client(streamable_http_client("http://films.example.org/mcp", http_client=http)) as client,
        ):
            return await client.call_tool("list_videos", {"limit": 1})

    async def both() -> tuple[Any, int]:
        inner = app.app  # type: ignore[attr-defined]
        async with inner.router.lifespan_context(inner):
            listed = await through({"Authorization": f"Bearer {token.token}"})
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://films.example.org") as http:
                refused = await http.post("/mcp", json={})
        return listed, refused.status_code

    listed, status = asyncio.run(both())
    assert listed.structured_content["total"] == 3
    assert listed.structured_content["next"] == 1
    assert status == 401


def test_over_standard_input_and_output(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an agent has it that starts the command: it ends with its input."""
    config = ServeConfig(site.live.reader.root)
    from_agent, to_server = (open(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))  # noqa: PTH123, SIM115
    from_server, to_agent = (open(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))  # noqa: PTH123, SIM115
    monkeypatch.setattr(sys, "stdin", from_agent)
    monkeypatch.setattr(sys, "stdout", to_agent)
    ended = threading.Event()

    def serve() -> None:
        with from_agent, to_agent:
            serve_mcp_on_stdio(config)
            ended.set()

    @asynccontextmanager
    async def pipes(reading: IO[str], writing: IO[str]) -> AsyncIterator[Any]:
        with writing:
            async with stdio_server(anyio.wrap_file(reading), anyio.wrap_file(writing)) as streams:
                yield streams
                writing.close()

    async def call() -> list[Any]:
        async with Client(pipes(from_server, to_server)) as client:
            tools = (await client.list_tools()).tools
            return [len(tools), await client.call_tool("list_videos", {"limit": 2})]

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        count, listed = asyncio.run(call())
    finally:
        to_server.close()
        serving.join()
        from_server.close()
    assert ended.is_set()
    assert count == 4
    assert (listed.structured_content["total"], len(listed.structured_content["videos"])) == (3, 2)
