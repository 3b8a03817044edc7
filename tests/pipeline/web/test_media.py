from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import lance
import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from support import object_store
from support.drawn_archive import Drawn
from support.served import copied

from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.media import media_response, open_source
from malmm.pipeline.web.media_roots import MediaRoots
from malmm.pipeline.web.settings import ServeConfig

CONTENT = bytes(range(256)) * 8192


def served(uri: str) -> TestClient:
    roots = MediaRoots([uri])

    def get(request: Request) -> Response:
        return media_response(open_source(uri, roots), method=request.method, headers=request.headers)

    return TestClient(Starlette(routes=[Route("/", get, methods=["GET", "HEAD"])]))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(CONTENT)
    return path


def test_a_local_file_is_given_whole_and_in_part(film: Path) -> None:
    client = served(str(film))
    whole = client.get("/")
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/mp4"
    part = client.get("/", headers={"Range": "bytes=1000-300999"})
    assert (part.status_code, part.content) == (206, CONTENT[1000:301000])
    assert part.headers["content-range"] == f"bytes 1000-300999/{len(CONTENT)}"
    head = client.head("/")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(CONTENT)), b"")
    outside = client.get("/", headers={"Range": f"bytes={len(CONTENT)}-"})
    assert (outside.status_code, outside.headers["content-range"]) == (416, f"bytes */{len(CONTENT)}")


def test_a_file_that_changed_is_given_whole(film: Path) -> None:
    client = served(str(film))
    tag = client.head("/").headers["etag"]
    assert client.get("/", headers={"If-None-Match": tag}).status_code == 304
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    asked = {"Range": "bytes=0-3", "If-Range": tag}
    assert client.get("/", headers=asked).status_code == 206
    film.write_bytes(b"another film")
    assert client.get("/", headers=asked).content == b"another film"


def test_an_object_is_read_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store.running() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        bucket: Any = boto3.client("s3", endpoint_url=store.endpoint)
        bucket.put_object(Bucket="films", Key="a film.mp4", Body=CONTENT)
        bucket.close()
        client = served("s3://films/a film.mp4")
        store.forget()
        part = client.get("/", headers={"Range": "bytes=1000000-1000999"})
        assert (part.status_code, part.content) == (206, CONTENT[1000000:1001000])
        assert sum(store.served.values()) == 1000
        assert client.get("/").content == CONTENT
        tag = part.headers["etag"]
        assert client.get("/", headers={"If-None-Match": tag}).status_code == 304
        with pytest.raises(MediaError) as raised:
            open_source("s3://films/gone.mp4", MediaRoots(["s3://films"]))
        assert raised.value.kind == "missing"


def test_a_video_in_an_object_store_is_served_by_its_id(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(drawn, tmp_path)
    row = drawn.reader.videos().to_pylist()[0]
    content = Path(row["uri"]).read_bytes()
    middle = len(content) // 2
    with object_store.running() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        bucket: Any = boto3.client("s3", endpoint_url=store.endpoint)
        bucket.put_object(Bucket="films", Key="a/film.mp4", Body=content)
        bucket.close()
        lance.dataset(f"{place}/videos.lance").update(
            {"uri": "'s3://films/a/film.mp4'"}, where=f"video_id = '{row['video_id']}'"
        )
        media = f"/api/videos/{row['video_id']}/media"
        with TestClient(
            make_app(ServeConfig(place, media_roots=("s3://films/a/",))), base_url="http://127.0.0.1:8000"
        ) as client:
            part = client.get(media, headers={"Range": f"bytes={middle}-{middle + 999}"})
            assert (part.status_code, part.content) == (206, content[middle : middle + 1000])
            assert part.headers["content-range"] == f"bytes {middle}-{middle + 999}/{len(content)}"
            assert part.headers["content-type"] == "video/mp4"
            outside = client.get(media, headers={"Range": f"bytes={len(content)}-"})
            assert (outside.status_code, outside.content) == (416, b"")
            assert outside.headers["content-range"] == f"bytes */{len(content)}"
            assert client.get(media).content == content
            # The store refuses, and its own words stay where they are.
            store.fault = lambda method, path: "403"
            refused = client.get(media)
            assert (refused.status_code, refused.json()["kind"]) == (502, "media_unreachable")
            assert "films" not in refused.text
