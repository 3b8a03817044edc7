from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from support.drawn_archive import Drawn

from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.auth import COOKIE
from malmm.pipeline.web.settings import MOST_BODY_BYTES, ServeConfig

TOKEN = "correct-horse-battery"  # noqa: S105 - made up


@pytest.fixture(scope="module")
def locked(drawn: Drawn) -> Iterator[TestClient]:
    config = ServeConfig(drawn.place, host="0.0.0.0", token=TOKEN)  # noqa: S104
    with TestClient(make_app(config), base_url="http://films.example.org") as made:
        yield made


@pytest.fixture(autouse=True)
def _no_cookies(locked: TestClient) -> None:
    locked.cookies.clear()


@pytest.mark.parametrize(
    "path", ["/api/archive", "/api/videos", "/api/openapi.json", "/api/search?text=a", "/anything"]
)
def test_nothing_is_read_without_the_token(locked: TestClient, path: str) -> None:
    answer = locked.get(path)
    assert answer.status_code == 401
    assert answer.json()["kind"] == "token"


def test_the_page_that_asks_for_the_token_is_open(locked: TestClient) -> None:
    assert locked.get("/").status_code == 200
    assert locked.get("/static/main.js").status_code == 200
    assert locked.get("/api/session").json() == {
        "open": False,
        "token_needed": True,
        "name": None,
        "may_review": False,
    }


@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong-horse-battery", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_wrong_tokens_do_not_open(locked: TestClient, given: str) -> None:
    assert locked.get("/api/videos", headers={b"Authorization": given.encode()}).status_code == 401


@pytest.mark.parametrize("cookie", ["", TOKEN, "0" * 64, "ü"])
def test_cookies_of_ones_own_do_not_open(locked: TestClient, cookie: str) -> None:
    assert locked.get("/api/videos", headers={b"Cookie": f"{COOKIE}={cookie}".encode()}).status_code == 401


def test_the_token_opens_as_a_bearer_and_by_a_cookie_that_scripts_cannot_read(locked: TestClient) -> None:
    assert locked.get("/api/videos", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert locked.post("/api/session", json={"token": "wrong-horse-battery"}).status_code == 401
    assert locked.get("/api/videos").status_code == 401
    answer = locked.post("/api/session", json={"token": TOKEN})
    said = answer.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=strict" in said
    assert TOKEN not in said
    assert locked.get("/api/videos").status_code == 200
    locked.delete("/api/session")
    assert locked.get("/api/videos").status_code == 401


def test_without_a_token_only_this_machines_names_are_answered(client: TestClient) -> None:
    assert client.get("/api/videos").status_code == 200
    for host in ("evil.example.org", "127.0.0.1.example.org", "192.168.0.1:8000", ""):
        assert client.get("/api/videos", headers={"Host": host}).status_code == 421
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/api/videos", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(client: TestClient) -> None:
    for site in ("cross-site", "same-site"):
        answer = client.get("/api/archive", headers={"Sec-Fetch-Site": site})
        assert (answer.status_code, answer.json()["kind"]) == (403, "origin")
    assert client.get("/api/archive", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_bodies_are_bounded_whether_they_say_so_or_not(client: TestClient) -> None:
    large = b'{"question": "' + b"a" * MOST_BODY_BYTES + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/api/ask", content=large, headers=headers).status_code == 413
    assert (
        client.post("/api/ask", content=iter([large[:50000], large[50000:]]), headers=headers).status_code
        == 413
    )
    assert client.get("/api/archive", headers={"Content-Length": "much"}).status_code == 413


def test_every_answer_keeps_a_browser_in_line(client: TestClient) -> None:
    for path in ("/", "/static/main.js", "/api/archive", "/api/videos/x", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/../../etc/passwd",
        "/api/videos/..%2f..%2fetc%2fpasswd/media", "/api/videos/%2fetc%2fpasswd/media",
        "/api/videos//etc/passwd/media",
        "/api/videos/000000000000000000000000/media", "/api/videos/..%00/media", "/api/memories/..%2f-0000/thumbnail",
    ],
)  # fmt: skip
@pytest.mark.parametrize("video", ["", "?uri=/etc/passwd&path=/etc/passwd"])
def test_nothing_is_named_by_path(client: TestClient, path: str, video: str) -> None:
    answer = client.get(path + video)
    assert answer.status_code in (404, 422)
    assert "root:" not in answer.text
    assert "make_app" not in answer.text
