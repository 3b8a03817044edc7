"""A video over HTTP gives the pictures of the file on disk, whatever its server can and says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.http_server import Reply, WebServer, serving
from support.media import VideoSpec, make_video

from malmm.operators.media import temporary_copies
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.probe import probe
from malmm.operators.media.ranges import open_ranges
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import Patience

TAG = {"ETag": '"one"'}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video"), VideoSpec("a.mp4", duration_s=20, b_frames=2))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(backends, "PATIENCE", Patience(attempts=2, first_pause_s=0.0, longest_pause_s=0.0))
    with serving() as server:
        yield server


SERVERS: dict[str, dict[str, Any]] = {
    "ranges": {},
    "no ranges": {"ranges": False},
    "no size": {"ranges": False, "chunked": True},
    "ranges without sizes": {"chunked": True},
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("headers", [{}, TAG], ids=["untagged", "tagged"])
def test_pictures_are_those_of_the_file(
    server: str, headers: dict[str, str], video: Path, web: WebServer
) -> None:
    uri = web.put("/a.mp4", video.read_bytes(), headers=headers, **SERVERS[server])
    cache = FileCache()
    assert probe(uri, cache) == probe(str(video))
    for span in ((0.0, 5.0), (12.0, 15.0)):
        there = decode_span(SpanRequest(uri, *span, 2.0, 32), cache)
        here = decode_span(SpanRequest(str(video), *span, 2.0, 32))
        np.testing.assert_array_equal(there.frames, here.frames)
        np.testing.assert_array_equal(there.timestamps_s, here.timestamps_s)
        assert there.problem is None


def test_a_server_without_ranges_gives_a_tagged_file_once(web: WebServer) -> None:
    body, cache = bytes(range(256)) * 100, FileCache()
    uri = web.put("/a.mp4", body, headers=TAG, ranges=False, chunked=True)
    for _ in range(3):
        with open_ranges(uri, cache) as reader:
            assert (reader.size_bytes, reader.read()) == (len(body), body)
    # One to look for a size, and one for the content.
    assert [method for method, _ in web.requests].count("GET") == 3 + 1
    web.put("/a.mp4", body[::-1], headers={"ETag": '"two"'}, ranges=False, chunked=True)
    with open_ranges(uri, cache) as reader:
        assert reader.read() == body[::-1]


def test_a_file_too_large_to_copy_is_refused(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary_copies, "MOST_BYTES", 100)
    uri = web.put("/a.mp4", bytes(101), ranges=False, chunked=True)
    with pytest.raises(MediaError, match="larger than 100 bytes") as caught:
        open_ranges(uri)
    assert caught.value.kind == "unreachable"


CHANGES = {
    "another tag": Reply(bytes(10_000), headers={"ETag": '"two"'}),
    "another size": Reply(bytes(9_000), headers=TAG),
    "another tag and no ranges": Reply(bytes(10_000), headers={"ETag": '"two"'}, ranges=False),
    "another size and no ranges": Reply(bytes(9_000), headers=TAG, ranges=False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_an_error(change: str, web: WebServer) -> None:
    reader = open_ranges(web.put("/a.mp4", bytes(10_000), headers=TAG))
    web.files["/a.mp4"] = CHANGES[change]
    with pytest.raises(MediaError, match="changed while it was read") as caught:
        reader.read(100)
    assert caught.value.kind == "unreachable"


STATUSES = {
    404: "missing",
    410: "missing",
    401: "denied",
    403: "denied",
    400: "unreachable",
    500: "unreachable",
}


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_means_what_it_says(status: int, web: WebServer) -> None:
    uri = web.put("/a.mp4", status=status)
    with pytest.raises(MediaError) as caught:
        probe(uri)
    assert caught.value.kind == STATUSES[status]
    web.put("/a.mp4", bytes(10_000))
    reader = open_ranges(uri)
    web.put("/a.mp4", status=status)
    with pytest.raises(MediaError) as caught:
        reader.read(100)
    assert caught.value.kind == STATUSES[status]
    said = {"missing": "no such file", "denied": "may not be read", "unreachable": "after 2 tries"}
    assert said[caught.value.kind] in str(caught.value)


def test_an_empty_file_is_empty_and_a_page_is_a_directory(web: WebServer) -> None:
    for form in ({}, {"ranges": False}, {"chunked": True, "ranges": False}):
        with pytest.raises(MediaError) as caught:
            probe(web.put("/empty.mp4", b"", **form))
        assert caught.value.kind == "empty_file"
    web.put("/films/a.mp4")
    with pytest.raises(MediaError) as caught:
        probe(f"{web.address}/films/")
    assert caught.value.kind == "not_a_video"
