"""Sources over HTTP, from real servers that refuse, stumble, hang and lie."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support.http_server import Reply, WebServer, serving
from support.sources_listed import AWAY, DENIED, MISSING, QUICK, error, listed, only, uris

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.listing import SourceFile, is_gone, which_are_gone


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "PATIENCE", QUICK)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving() as server:
        yield server


STATUSES = {
    404: MISSING, 410: MISSING, 401: DENIED, 403: DENIED, 407: DENIED, 400: AWAY, 405: AWAY, 408: AWAY, 409: AWAY,
    418: AWAY, 429: AWAY, 451: AWAY, 500: AWAY, 501: AWAY, 502: AWAY, 503: AWAY, 504: AWAY, 599: AWAY,
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_over_http_means_what_it_says(status: int, web: WebServer, tmp_path: Path) -> None:
    address, good = web.put("/a.mp4", status=status), web.put("/good.mp4")
    first, second = listed(address, good)
    assert isinstance(first, SourceError)
    assert STATUSES[status] in first.message
    assert str(status) in first.message or STATUSES[status] == MISSING
    assert isinstance(second, SourceFile)
    assert is_gone(address) == (STATUSES[status] == MISSING)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{address}\n{good}\n")
    rows = listed(str(manifest))
    assert [type(row) for row in rows] == [SourceError, SourceFile]
    assert STATUSES[status] in str(rows[0])
    assert STATUSES[status] in error(web.put("/list.csv", status=status))


@pytest.mark.parametrize("reply", [Reply(status=503), Reply(status=429), Reply(silent=True), Reply(cut=True)])
def test_a_failure_that_passes_is_not_told(
    reply: Reply, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may be late with a right answer too: that is tried again like the wrong ones.
    limit_s = 0.5 if reply.silent else QUICK.answer_s
    monkeypatch.setattr(backends, "PATIENCE", replace(QUICK, attempts=9, answer_s=limit_s))
    address, page = web.put("/films/a.mp4"), f"{web.address}/films/"
    page_reply = replace(reply, body=b"<a href='a.mp4'>", headers={"Content-Type": "text/html"})
    web.rule = lambda method, path, before: page_reply if before < 1 + (not reply.silent) else None
    assert uris(address) == [address]
    web.requests.clear()
    assert uris(page) == [address]


def test_a_redirect_loop_and_a_server_that_is_not_there_cost_one_source(web: WebServer) -> None:
    loop = web.put("/loop.mp4", status=302, headers={"Location": "/loop.mp4"})
    sources = [loop, "http://127.0.0.1:9/a.mp4", "http://[::1/a.mp4", "http://", web.put("/good.mp4")]
    first, second, third, fourth, last = listed(*sources)
    assert "redirects in a circle" in str(first)
    assert "cannot be listed after 3 tries" in str(second)
    assert [type(item) for item in (third, fourth, last)] == [SourceError, SourceError, SourceFile]
    assert [is_gone(source) for source in sources] == [False] * 5


def test_files_are_asked_for_side_by_side_whether_they_are_gone(web: WebServer) -> None:
    together = threading.Barrier(8)
    addresses = {str(number): web.put(f"/{number}.mp4") for number in range(5)}
    addresses |= {str(number): f"{web.address}/{number}.mp4" for number in range(5, 8)}

    def wait(method: str, path: str, before: int) -> None:
        if not before:
            together.wait(60)

    web.rule = wait
    assert which_are_gone(addresses) == {key: addresses[key] for key in ("5", "6", "7")}


def test_a_store_that_does_not_answer_is_not_asked_for_each_of_its_files(web: WebServer) -> None:
    many = {str(number): f"{web.address}/{number}.mp4" for number in range(1000)}
    web.rule = lambda method, path, before: Reply(status=503)
    assert which_are_gone(many) == {}
    assert len(web.requests) < 200
    # One that answers now and then is asked for all.
    web.requests.clear()
    web.rule = lambda method, path, before: Reply(status=404 if int(path[1:-4]) % 3 else 503)
    assert len(which_are_gone(many)) == 666


@pytest.mark.parametrize("path", ["/a.mp4", "/films/", "/films/*.mp4", "/list.csv"])
def test_a_server_that_never_answers_is_given_up_in_time(
    path: str, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "PATIENCE", replace(QUICK, attempts=2, answer_s=0.2))
    web.rule = lambda method, path, before: Reply(silent=True)
    assert "after 2 tries: no answer within 0.2 s" in error(f"{web.address}{path}")


FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no ranges": {"ranges": False},
    "chunked": {"chunked": True, "ranges": False},
    "chunked with ranges": {"chunked": True},
    "no range of unknown size": {"chunked": True, "claims": "bytes 0-0/*"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("body", [b"", b"v" * 1000])
def test_a_size_is_the_files_or_unknown(form: str, body: bytes, web: WebServer) -> None:
    address = web.put("/a.mp4", body, **FORMS[form])
    unknown = FORMS[form].get("chunked") and (not FORMS[form].get("ranges", True) or (body and "of" in form))
    assert only(address).size_bytes == (-1 if unknown else len(body))


def test_a_compressed_answer_has_another_size_than_the_file(web: WebServer) -> None:
    body = gzip.compress(b"v" * 1000)
    address = web.put("/a.mp4", body, headers={"Content-Encoding": "gzip"})
    assert only(address).size_bytes == -1


VERSIONS = [
    ({"ETag": '"one"'}, {"ETag": '"two"'}),
    ({"ETag": 'W/"one"'}, {"ETag": 'W/"two"'}),
    (
        {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"},
        {"Last-Modified": "Wed, 21 Oct 2015 07:29:00 GMT"},
    ),
    ({"Content-MD5": "b25l"}, {"Content-MD5": "dHdv"}),
]


@pytest.mark.parametrize(("one", "two"), VERSIONS)
@pytest.mark.parametrize("path", ["/films/a.mp4", "/films/", "/films/*.mp4"])
def test_a_file_replaced_by_one_of_its_size_is_noticed(
    path: str, one: dict[str, str], two: dict[str, str], web: WebServer
) -> None:
    source = f"{web.address}{path}"
    web.put("/films/a.mp4", headers=one)
    first = only(source)
    assert first == only(f"{web.address}/films/a.mp4")
    assert (first.size_bytes, only(source)) == (5, first)
    web.put("/films/a.mp4", headers=two)
    assert only(source).fingerprint != first.fingerprint


def test_an_address_that_ends_in_a_slash_is_a_directory(web: WebServer) -> None:
    names = ["/films/b.mp4", "/films/a b.mp4", "/films/sub/é.mkv", "/films/notes.txt", "/films/.hidden/x.mp4"]
    for name in (*names, "/other.mp4"):
        web.put(name)
    wanted = [f"{web.address}/films/{name}" for name in ("a%20b.mp4", "b.mp4", "sub/%C3%A9.mkv")]
    assert uris(f"{web.address}/films/") == wanted
    assert uris(f"{web.address}/films/**/[a-z]*.mp4") == [*wanted[:2], f"{web.address}/films/.hidden/x.mp4"]
    assert uris(f"{web.address}/films/s*/*") == wanted[2:]
    web.put("/moved", status=301, headers={"Location": "/films/"})
    assert uris(f"{web.address}/moved") == wanted
    assert "1 file but not one with a video extension" in error(web.put("/t/x.txt").removesuffix("x.txt"))
    # A video may lie at such an address too.
    odd = web.put("/odd/", headers={"Content-Type": "video/mp4"})
    assert uris(odd) == [odd]


def test_a_name_with_two_colons_is_no_chain(web: WebServer) -> None:
    address = web.put("/films/a::b.mp4", b"12345")
    assert (only(address).uri, only(address).size_bytes) == (address, 5)
    assert [unquote(uri) for uri in uris(web.address + "/films/")] == [address]


def test_links_that_lead_out_of_a_directory_or_in_a_circle_are_not_followed(web: WebServer) -> None:
    links = [
        "..", "../other/a.mp4", "/a.mp4", "http://127.0.0.1:9/films/a.mp4", "//127.0.0.1:9/a.mp4", "%2e%2e/a.mp4",
        "mailto:a.mp4", "javascript:a.mp4", "#a.mp4", "?a.mp4", ".", "./", "http://[/a.mp4", "good.mp4#t=10",
        "./good.mp4", "/films/good.mp4", "a.mp4?x=1&amp;y=2", "self/../self/",
    ]  # fmt: skip
    page = "".join(f'<A class="x" HREF="{link}">' for link in links)
    headers = {"Content-Type": "text/html"}
    web.put("/films/", page.encode(), headers=headers)
    web.put("/films/self/", b"<a href='../'><a href='/films/'><a href='.'>", headers=headers)
    web.put("/films/good.mp4")
    web.put("/films/a.mp4?x=1&y=2")
    assert uris(f"{web.address}/films/") == [
        f"{web.address}/films/{n}" for n in ("a.mp4?x=1&y=2", "good.mp4")
    ]
    assert not any("other" in path for _, path in web.requests)


def test_a_tree_of_pages_without_end_is_left(web: WebServer) -> None:
    headers = {"Content-Type": "text/html"}
    web.rule = lambda method, path, before: (
        Reply(b"<a href='deeper/'>", headers=headers) if path.endswith("/") else None
    )
    assert "a loop of links" in error(f"{web.address}/films/")


FAULTS = {403: DENIED, 404: MISSING, 500: AWAY, 503: AWAY}


@pytest.mark.parametrize("status", FAULTS)
def test_every_folder_over_http_that_cannot_be_listed_is_a_failure(status: int, web: WebServer) -> None:
    for name in ("a/1.mp4", "b/2.mp4", "b/c/3.mp4", "d/4.mp4"):
        web.put(f"/films/{name}")
    bad = {"/films/a/", "/films/b/c/"}
    web.rule = lambda method, path, before: Reply(status=status) if path in bad else None
    for source in ("/films/", "/films/**/*.mp4"):
        found = listed(f"{web.address}{source}")
        errors = [item for item in found if isinstance(item, SourceError)]
        assert [item.uri for item in errors] == [f"{web.address}{path}" for path in sorted(bad)]
        assert all(FAULTS[status] in item.message for item in errors)
        assert [item.uri[-5:] for item in found if isinstance(item, SourceFile)] == ["2.mp4", "4.mp4"]


def test_a_folder_over_http_that_is_no_page_is_a_failure(web: WebServer) -> None:
    web.put("/films/", b"[]", headers={"Content-Type": "text/html"})
    web.put("/films/sub/", b"[]", headers={"Content-Type": "application/json"})
    web.put("/films/", b"<a href='sub/'>", headers={"Content-Type": "text/html"})
    assert "not a page with links but application/json" in error(f"{web.address}/films/")
