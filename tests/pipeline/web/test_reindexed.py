"""An archive that is reindexed with another recipe while it is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.drawn_archive import Drawn
from support.inline_stages import InlineStages
from support.served import copied

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig


def get(client: TestClient, path: str, **parameters: object) -> Any:
    answer = client.get(f"/api/{path}", params=parameters)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def anew(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    """The same videos in another recipe: its tables can be put beside those of the first."""
    place = copied(drawn, tmp_path_factory.mktemp("anew"))
    sources = str(Path(drawn.reader.videos().to_pylist()[0]["uri"]).parent / "*.mp4")
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        config = IndexConfig(sources=(sources,), archive=place, model="demo", segment_s=10.0, reindex=True)
        assert index(config).switched
    return ArchiveReader.open(place)


def prepared(drawn: Drawn, anew: ArchiveReader, folder: Path) -> Archive:
    """An archive whose new recipe is all there and not yet in force."""
    place = copied(drawn, folder)
    shutil.copytree(anew.uri, f"{place}/{Path(anew.uri).name}")
    vector = anew.memory_rows(anew.segments()["segment_id"].to_pylist()[:1], ["vectors"])["vectors"][0][0]
    made = Archive.create_or_open(place, anew.recipe, len(vector), reindex=True)
    assert not made.is_in_force
    return made


def test_a_new_recipe_is_served_at_once(drawn: Drawn, anew: ArchiveReader, tmp_path: Path) -> None:
    made = prepared(drawn, anew, tmp_path)
    place = made.root
    name, video, _ = drawn.only_once()[0]
    question = {"question": f"Which way does the {name} move?", "k": 1}
    with TestClient(make_app(ServeConfig(place)), base_url="http://127.0.0.1:8000") as client:
        page = get(client, "search", text="a circle", limit=3)
        old = get(client, f"videos/{video}/segments")
        slots = get(client, f"videos/{video}/memories")
        assert client.get(f"/{slots[0]['thumbnail']}").status_code == 200
        assert client.post("/api/ask", json=question).text.splitlines()[-1].startswith('{"event":"done"')
        assert made.put_in_force()
        new = get(client, f"videos/{video}/segments")
        assert len(new) == 2 * len(old)
        assert not {row["segment_id"] for row in new} & {row["segment_id"] for row in old}
        assert [row["segment_id"] for row in new] == [
            row["segment_id"] for row in ArchiveReader.open(place).segments(video).to_pylist()
        ]
        assert get(client, "videos")["total"] == 3
        assert get(client, "archive")["segments"] == ArchiveReader.open(place).count("segments")
        # A search goes on among the moments of the new recipe.
        more = get(client, "search", text="a circle", limit=3, cursor=page["next"])["moments"]
        assert len(more) == 3
        found = get(client, "search", text=f"a {name}", limit=3)["moments"]
        assert found[0]["video_id"] == video
        for card in [*more, *found]:
            assert card["caption"]
            assert client.get(f"/{card['thumbnail']}").headers["content-type"] == "image/jpeg"
        for slot in get(client, f"videos/{video}/memories")[:2]:
            assert client.get(f"/{slot['thumbnail']}").status_code == 200
        assert client.get(f"/api/videos/{video}/thumbnail").status_code == 200
        # A picture of a slot that is no more is not there, rather than one of before.
        assert client.get(f"/{slots[-1]['thumbnail']}").status_code == 404
        events = [json.loads(line) for line in client.post("/api/ask", json=question).text.splitlines()]
        assert [event["event"] for event in events][-2:] == ["answered", "done"]
        assert events[1]["segment_id"] in {row["segment_id"] for row in new}


@pytest.mark.parametrize("first", ["search", "archive", "videos", "thumbnail", "ask", "cursor"])
def test_the_first_request_after_the_switch_is_met(
    drawn: Drawn, anew: ArchiveReader, tmp_path: Path, first: str
) -> None:
    made = prepared(drawn, anew, tmp_path)
    video = sorted(drawn.scenes)[0]
    with TestClient(make_app(ServeConfig(made.root)), base_url="http://127.0.0.1:8000") as client:
        page = get(client, "search", text="a circle", limit=3)
        # The server looks every two seconds at what is in force, so that it does not know yet.
        assert made.put_in_force()
        if first == "ask":
            answer = client.post("/api/ask", json={"question": "What appears first?", "video_ids": [video]})
            assert json.loads(answer.text.splitlines()[-1])["event"] == "done", answer.text
        elif first == "thumbnail":
            assert client.get(f"/api/videos/{video}/thumbnail").status_code == 200
        elif first == "cursor":
            assert get(client, "search", text="a circle", limit=3, cursor=page["next"])["moments"]
        else:
            get(client, first, **({"text": "a circle"} if first == "search" else {}))
