"""Every row of the table of RFC 9110's rules, asked of the page's answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from support.range_requests import CONTENT, MODIFIED, ROWS, Row, filled, spans_sent

from malmm.pipeline.web.media import media_response, open_source
from malmm.pipeline.web.media_roots import MediaRoots
from malmm.pipeline.web.range_requests import Representation, parse_ranges, select


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    film = tmp_path_factory.mktemp("served") / "film.mp4"
    film.write_bytes(CONTENT)
    os.utime(film, (MODIFIED.timestamp(), MODIFIED.timestamp()))
    roots = MediaRoots([str(film)])

    def get(request: Request) -> Response:
        return media_response(open_source(str(film), roots), method=request.method, headers=request.headers)

    with TestClient(Starlette(routes=[Route("/", get, methods=["GET", "HEAD"])])) as made:
        yield made


def test_the_rows_are_told_apart() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_request_is_answered_as_the_standard_has_it(client: TestClient, row: Row) -> None:
    tag = client.head("/").headers["etag"]
    answer = client.request(row.method, "/", headers=filled(row, tag))
    assert answer.status_code == row.status
    assert spans_sent(answer.status_code, answer.headers, answer.content, CONTENT) == row.spans
    assert (answer.headers["etag"], answer.headers["accept-ranges"]) == (tag, "bytes")
    assert answer.headers["last-modified"] == "Sun, 01 Mar 2026 12:30:05 GMT"
    if answer.status_code in (200, 206):
        whole = row.method == "HEAD"
        assert int(answer.headers["content-length"]) == (len(CONTENT) if whole else len(answer.content))
        assert answer.headers["content-type"].startswith(("video/mp4", "multipart/byteranges; boundary="))
    if row.status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"


NOW = MODIFIED + timedelta(days=1)


@pytest.mark.parametrize(
    ("headers", "held", "now", "status"),
    [
        # A store that gives neither tag nor date.
        ({"if-none-match": '"a"'}, Representation(9), NOW, 200),
        ({"if-none-match": "*"}, Representation(9), NOW, 304),
        ({"if-match": '"a"'}, Representation(9), NOW, 412),
        ({"if-match": "*"}, Representation(9), NOW, 200),
        ({"if-modified-since": "Sun, 01 Mar 2026 12:30:05 GMT"}, Representation(9), NOW, 200),
        ({"if-unmodified-since": "Sun, 01 Mar 2020 12:30:05 GMT"}, Representation(9), NOW, 200),
        ({"if-range": '"a"', "range": "bytes=0-"}, Representation(9), NOW, 200),
        ({"range": "bytes=0-"}, Representation(9), NOW, 206),
        # A weak tag says that a file is as good as another, and not that its bytes are the same.
        ({"if-none-match": 'W/"a"'}, Representation(9, 'W/"a"'), NOW, 304),
        ({"if-none-match": '"a"'}, Representation(9, 'W/"a"'), NOW, 304),
        ({"if-match": 'W/"a"'}, Representation(9, 'W/"a"'), NOW, 412),
        ({"if-range": 'W/"a"', "range": "bytes=0-"}, Representation(9, 'W/"a"'), NOW, 200),
        ({"if-range": '"a"', "range": "bytes=0-"}, Representation(9, 'W/"a"'), NOW, 200),
        # A file that changed within this second may change again within it.
        (
            {"if-range": "Sun, 01 Mar 2026 12:30:05 GMT", "range": "bytes=0-"},
            Representation(9, None, MODIFIED),
            MODIFIED,
            200,
        ),
        (
            {"if-range": "Sun, 01 Mar 2026 12:30:05 GMT", "range": "bytes=0-"},
            Representation(9, None, MODIFIED),
            MODIFIED + timedelta(seconds=1),
            206,
        ),
        # Dates in the two old formats, and in another zone than the standard's.
        (
            {"if-modified-since": "Sunday, 01-Mar-26 12:30:05 GMT"},
            Representation(9, None, MODIFIED),
            NOW,
            304,
        ),
        ({"if-modified-since": "Sun Mar  1 12:30:05 2026"}, Representation(9, None, MODIFIED), NOW, 304),
        (
            {"if-modified-since": "Sun, 01 Mar 2026 11:30:04 -0100"},
            Representation(9, None, MODIFIED),
            NOW,
            200,
        ),
        # An empty file has no byte that Content-Range could name.
        ({"range": "bytes=0-"}, Representation(0), NOW, 416),
        ({"range": "bytes=-5"}, Representation(0), NOW, 200),
        ({}, Representation(0), NOW, 200),
    ],
)
def test_conditions_hold_for_what_a_store_tells(
    headers: dict[str, str], held: Representation, now: datetime, status: int
) -> None:
    assert now.tzinfo is UTC
    assert select("GET", headers, held, now).status == status


def test_digits_of_other_scripts_are_no_numbers() -> None:
    assert parse_ranges("bytes=٣-", 100) is None
    assert parse_ranges("bytes=²-", 100) is None
