"""A page over several archives: archives are named, and each has media roots of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from support.archive_rows import video
from support.split_rows import Library

from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

BASE = "http://127.0.0.1:8000"
# Texts alone: rows that are made up have no model.
LIBRARY = Library(videos=4, segments=2, slots=2).with_recipe(retrieval_model="none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("served")
    LIBRARY.put(str(made / "north"), (0, 1, 2))
    LIBRARY.put(str(made / "south"), (2, 3))
    # Where south's videos are said to lie.
    (made / "all.yaml").write_text(
        "archives:\n  - {archive: north, media_roots: []}\n"
        "  - {name: sea, archive: south, media_roots: [/videos]}\n  - gone\n"
    )
    return made


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_app(ServeConfig(str(folder / "all.yaml"))), base_url=BASE) as made:
        yield made


def test_moments_and_videos_name_their_archive(client: TestClient) -> None:
    found = client.get("/api/search", params={"text": "red car dog star river up left", "limit": 100}).json()
    whose = {card["video_id"]: card["archive"] for card in found["moments"]}
    expected = {video(number): "north" if number < 3 else "sea" for number in range(4)}
    assert whose.items() <= expected.items()
    assert set(whose.values()) == {"north", "sea"}
    assert [each["name"] for each in found["left_out"]] == ["gone"]
    page = client.get("/api/videos").json()
    assert page["total"] == 4
    assert {row["video_id"]: row["archive"] for row in page["videos"]} == expected
    for number in range(4):
        texts = client.get(f"/api/videos/{video(number)}/annotations").json()
        assert len(texts) == LIBRARY.segments + 1
        assert client.get(f"/api/videos/{video(number)}/thumbnail").status_code == 200


def test_the_overview_says_from_where_each_archives_videos_are_played(client: TestClient) -> None:
    now = client.get("/api/archive").json()
    assert [(each["name"], each["videos"], each["media_roots"]) for each in now["archives"]] == [
        ("north", 3, []),
        ("sea", 2, ["/videos"]),
    ]
    assert now["videos"] == 4
    assert now["memories"] == LIBRARY.tables["memories"].num_rows
    assert [each["name"] for each in now["left_out"]] == ["gone"]


def test_an_archives_videos_are_read_from_its_own_roots_alone(client: TestClient) -> None:
    # Permitted, but not there; and not permitted.
    assert client.get(f"/api/videos/{video(3)}/media").json()["kind"] == "media_missing"
    assert client.get(f"/api/videos/{video(0)}/media").json()["kind"] == "media_not_served"


def test_roots_by_name_are_those_of_that_archive(folder: Path) -> None:
    archives = (str(folder / "north"), str(folder / "south"))
    by_name = ServeConfig(archives, media_roots={"south": ("/films",)}).roots_by_archive()
    assert by_name == {"north": (), "south": ("/films",)}
    for_all = ServeConfig(archives, media_roots=("/films",)).roots_by_archive()
    assert for_all == {"north": ("/films",), "south": ("/films",)}
