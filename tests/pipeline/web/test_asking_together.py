"""Several visitors ask one model: who waits is told so, and whoever leaves or does not read keeps nobody waiting."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.drawn_archive import Drawn
from support.served import in_this_process

from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

QUESTION = {"question": "What appears first?"}


class Visitor:
    """A connection to the application that asks one question, and that reads no further than it is told to.

    A socket's buffers hold whole answers of a small model, so that a client of a real one cannot stand still.
    """

    def __init__(self, app: Any, question: dict[str, Any], *, until: str | None) -> None:
        """``until`` is the event after which it reads no more, before ``read_on``."""
        self.status = 0
        self.body = b""
        self._until = until
        self._told = asyncio.Condition()
        self._reads = asyncio.Event()
        self._left = asyncio.Event()
        self._asked = False
        self._question = json.dumps(question).encode()
        headers = {
            "host": "127.0.0.1",
            "content-type": "application/json",
            "content-length": str(len(self._question)),
        }
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": "POST", "scheme": "http", "path": "/api/ask", "raw_path": b"/api/ask", "root_path": "",
            "query_string": b"", "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
        }  # fmt: skip
        self.answering = asyncio.ensure_future(app(scope, self._receive, self._send))

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]

    async def hears(self, kind: str, **fields: object) -> None:
        """Wait for an event."""
        wanted = {"event": kind, **fields}

        def told() -> bool:
            return any(wanted == {name: event.get(name) for name in wanted} for event in self.events)

        async with self._told:
            await self._told.wait_for(told)

    def read_on(self) -> None:
        """Read whatever comes."""
        self._reads.set()

    async def leave(self) -> None:
        """Close the connection, and wait until the server is done with it."""
        self._left.set()
        self._reads.set()
        await self.answering

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._question, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._told:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            else:
                self.body += message.get("body", b"")
            self._told.notify_all()
        if self._until is not None and self.status == 200 and self._until in self.kinds:
            await self._reads.wait()


Ask = Callable[..., Visitor]


def visited(drawn: Drawn, waiting: int, go: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
    """Run visits of the real application over a real archive."""

    async def run() -> None:
        app = make_app(ServeConfig(drawn.place, waiting=waiting))
        question = QUESTION | {"video_ids": sorted(drawn.scenes)}
        async with app.router.lifespan_context(app):
            await asyncio.wait_for(go(lambda until=None: Visitor(app, question, until=until)), 120)

    asyncio.run(run())


def test_who_waits_is_told_how_many_come_first_and_too_many_are_sent_away(drawn: Drawn) -> None:
    async def go(ask: Ask) -> None:
        first = ask(until="started")
        await first.hears("started")
        second = ask()
        await second.hears("queued", ahead=1)
        third = ask()
        await third.hears("queued", ahead=2)
        fourth = ask()
        await fourth.answering
        assert fourth.status == 503
        refusal = json.loads(fourth.body)
        assert refusal["kind"] == "busy"
        assert "2 questions wait already" in refusal["message"]
        first.read_on()
        await asyncio.gather(first.answering, second.answering, third.answering)
        assert first.kinds[0] == "started"
        assert second.kinds[:2] == ["queued", "started"]
        assert [event["ahead"] for event in third.events if event["event"] == "queued"] == [2, 1]
        for visitor in (first, second, third):
            assert visitor.kinds[-2:] == ["answered", "done"]
            assert visitor.kinds.count("answered") == 3
        fifth = ask()
        await fifth.answering
        assert fifth.kinds[0] == "started"

    visited(drawn, 2, go)


@pytest.mark.parametrize("until", ["started", "begun", "words"])
def test_who_leaves_while_it_is_their_turn_makes_room(drawn: Drawn, until: str) -> None:
    async def go(ask: Ask) -> None:
        first = ask(until=until)
        await first.hears(until)
        second = ask()
        await first.leave()
        await second.answering
        assert second.kinds[-2:] == ["answered", "done"]
        assert "done" not in first.kinds

    visited(drawn, 1, go)


def test_who_leaves_the_line_lets_the_others_move_up(drawn: Drawn) -> None:
    async def go(ask: Ask) -> None:
        first = ask(until="started")
        await first.hears("started")
        second = ask()
        await second.hears("queued", ahead=1)
        third = ask()
        await third.hears("queued", ahead=2)
        await second.leave()
        await third.hears("queued", ahead=1)
        fourth = ask()
        await fourth.hears("queued", ahead=2)
        first.read_on()
        await asyncio.gather(first.answering, third.answering, fourth.answering)
        assert second.kinds == ["queued"]
        assert [visitor.kinds[-1] for visitor in (first, third, fourth)] == ["done"] * 3

    visited(drawn, 2, go)


def test_who_does_not_read_an_answer_keeps_nobody_waiting(drawn: Drawn) -> None:
    async def go(ask: Ask) -> None:
        first = ask(until="begun")
        await first.hears("begun")
        second = ask()
        await second.answering
        assert second.kinds[-1] == "done"
        first.read_on()
        await first.answering
        assert first.kinds[-2:] == ["answered", "done"]

    visited(drawn, 1, go)


def test_a_closed_connection_breaks_the_answer_off(drawn: Drawn) -> None:
    config = ServeConfig(drawn.place, waiting=0)
    body = json.dumps(QUESTION | {"video_ids": sorted(drawn.scenes)})
    headers = {"Content-Type": "application/json"}
    with in_this_process(make_app(config), drawn.place) as server:
        host = urlsplit(server.address).netloc
        for leaves in (True, True, False):
            connection = http.client.HTTPConnection(host, timeout=60)
            answer = _asked(connection, body, headers)
            kinds = []
            for line in answer:
                kinds.append(json.loads(line)["event"])
                if leaves and kinds[-1] == "words":
                    break
            answer.close()
            connection.close()
        assert kinds[-2:] == ["answered", "done"]


def _asked(
    connection: http.client.HTTPConnection, body: str, headers: dict[str, str]
) -> http.client.HTTPResponse:
    """Ask until it is one's turn: with nobody allowed to wait, those who come too early are sent away."""
    for _ in range(600):
        connection.request("POST", "/api/ask", body, headers)
        answer = connection.getresponse()
        if answer.status == 200:
            return answer
        assert (answer.status, json.load(answer)["kind"]) == (503, "busy")
    raise TimeoutError("the turn was never given back")
