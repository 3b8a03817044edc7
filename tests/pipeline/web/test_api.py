from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.drawn_archive import Drawn

from malmm.model.demo.world import COLOURS, SHAPES
from malmm.pipeline.searching.searcher import Searcher


def get(client: TestClient, path: str, **parameters: object) -> Any:
    answer = client.get(f"/api/{path}", params=parameters)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(client: TestClient, **question: object) -> list[dict[str, Any]]:
    answer = client.post("/api/ask", json=question)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_searching_finds_what_the_archive_itself_finds(client: TestClient, drawn: Drawn) -> None:
    name, video, _ = drawn.only_once()[0]
    page = get(client, "search", text=f"a {name}", limit=3)
    wanted = Searcher(drawn.place).search(f"a {name}", k=3)
    for card, found in zip(page["moments"], wanted, strict=True):
        assert (card["video_id"], card["start_s"], card["end_s"]) == (
            found.video_id,
            found.start_s,
            found.end_s,
        )
        assert card["caption"] == found.caption
        assert client.get(f"/{card['thumbnail']}").content == found.thumbnail
    assert page["moments"][0]["video_id"] == video


def test_pages_of_results_follow_each_other(client: TestClient) -> None:
    spans, cursor = [], None
    while True:
        page = get(client, "search", text="a circle", limit=5, **({"cursor": cursor} if cursor else {}))
        spans += [(card["video_id"], card["start_s"], card["end_s"]) for card in page["moments"]]
        cursor = page["next"]
        if cursor is None:
            break
        assert len(page["moments"]) == 5
    assert len(spans) > 10
    assert len(set(spans)) == len(spans)
    # Another replica, or one that forgot, begins the search anew where the cursor says.
    again = get(client, "search", text="a circle", limit=5, cursor="0123456789abcdef.5")
    assert [(c["video_id"], c["start_s"], c["end_s"]) for c in again["moments"]] == spans[5:10]


def test_searches_are_narrowed_by_video_and_date(client: TestClient, drawn: Drawn) -> None:
    video = sorted(drawn.scenes)[1]
    found = get(client, "search", text="a circle", video=video)["moments"]
    assert {card["video_id"] for card in found} == {video}
    assert get(client, "search", text="a circle", until="2020-01-01")["moments"] == []
    assert get(client, "search", text="a circle", since="2020-01-01T00:00:00+02:00")["moments"]
    assert get(client, "videos", since="2100-01-01")["total"] == 0


def test_a_filter_narrows_searches_lists_and_questions(client: TestClient, drawn: Drawn) -> None:
    where = "start_s < 10 and uri LIKE '%/1.mp4'"
    [video] = [row["video_id"] for row in drawn.reader.videos().to_pylist() if row["uri"].endswith("/1.mp4")]
    found = get(client, "search", text="a circle", where=where)["moments"]
    assert found
    assert {card["video_id"] for card in found} == {video}
    assert all(card["start_s"] < 10 for card in found)
    assert [row["video_id"] for row in get(client, "videos", where=where)["videos"]] == [video]
    assert told(client, question="What?", where="start_s < 0")[-1]["found"] is False
    wrong = "kamera = 'north'"
    for answer in (
        client.get("/api/search", params={"text": "a circle", "where": wrong}),
        client.get("/api/videos", params={"where": wrong}),
        client.post("/api/ask", json={"question": "What?", "where": wrong}),
    ):
        assert answer.status_code == 422
        assert "no column 'kamera'" in answer.text


def test_results_are_grouped_counted_and_explained(client: TestClient, drawn: Drawn) -> None:
    videos = get(client, "search/videos", text="a circle", limit=2, each=1)
    assert len({row["video_id"] for row in videos}) == 2
    assert all(len(row["moments"]) == 1 <= row["found"] for row in videos)
    counted = get(client, "search/facets", text="a circle")
    [facet] = [facet for facet in counted["facets"] if facet["name"] == "video"]
    assert sum(value["count"] for value in facet["values"]) == counted["moments"]
    narrowed = get(client, "search", text="a circle", where=facet["values"][0]["where"], explain=True)
    assert {card["name"] for card in narrowed["moments"]} == {facet["values"][0]["value"].rsplit("/", 1)[1]}
    said = narrowed["moments"][0]["explanation"]
    assert said["threshold"] == pytest.approx(
        Searcher(drawn.place).relevance_threshold("a circle", where=facet["values"][0]["where"])
    )
    assert get(client, "search", text="a circle")["moments"][0]["explanation"] is None


def test_videos_are_listed_in_pages(client: TestClient, drawn: Drawn) -> None:
    first = get(client, "videos", limit=2)
    second = get(client, "videos", limit=2, cursor=first["next"])
    rows = first["videos"] + second["videos"]
    assert (first["total"], second["next"]) == (3, None)
    assert {row["video_id"] for row in rows} == drawn.scenes.keys()
    assert all(row["caption"] and row["media_type"] == "video/mp4" for row in rows)
    assert [row["name"] for row in get(client, "videos", text="1.MP")["videos"]] == ["1.mp4"]


def test_a_video_is_shown_with_all_that_is_stored_of_it(client: TestClient, drawn: Drawn) -> None:
    video = sorted(drawn.scenes)[0]
    row = get(client, f"videos/{video}")
    segments = get(client, f"videos/{video}/segments")
    slots = get(client, f"videos/{video}/memories")
    texts = get(client, f"videos/{video}/annotations")
    assert get(client, f"videos/{video}/failures") == []
    assert [segment["index"] for segment in segments] == [0, 1]
    assert sum(slot["frame_count"] for slot in slots) == sum(segment["frame_count"] for segment in segments)
    assert [slot["end_s"] for slot in slots[:-1]] == [slot["start_s"] for slot in slots[1:]]
    assert {text["segment_id"] for text in texts} == {None, *(segment["segment_id"] for segment in segments)}
    assert row["caption"] in {text["text"] for text in texts if text["segment_id"] is None}
    assert get(client, f"videos/{video}/annotations", prompt="nothing") == []
    for address in (slots[3]["thumbnail"], row["thumbnail"]):
        picture = client.get(f"/{address}")
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content.startswith(b"\xff\xd8")
    captions = client.get(f"/{row['subtitles']}").text
    assert captions.startswith("WEBVTT\n")
    assert all(segment["caption"] in captions for segment in segments)
    assert client.get(f"/{row['media']}").content == Path(row["uri"]).read_bytes()


def test_the_overview_adds_up(client: TestClient, drawn: Drawn) -> None:
    now = get(client, "archive")
    rows = drawn.reader.videos().to_pylist()
    assert now["hours"] == pytest.approx(sum(row["duration_s"] for row in rows) / 3600)
    assert (now["videos"], now["segments"]) == (3, drawn.reader.count("segments"))
    assert now["growth"][-1]["videos"] == 3
    assert now["notice"]


def test_answers_come_word_by_word_with_their_moments(client: TestClient, drawn: Drawn) -> None:
    name, video, _ = drawn.only_once()[0]
    events = told(client, question=f"Which way does the {name} move?", k=1)
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["started", "begun"]
    assert kinds[-2:] == ["answered", "done"]
    assert events[-1]["found"]
    assert (
        "".join(event["text"] for event in events if event["event"] == "words").strip() == events[-2]["text"]
    )
    [moment, *_] = events[1]["moments"]
    assert events[1]["start_s"] <= moment["timestamp_s"] < events[1]["end_s"]
    assert events[1]["video_id"] == video
    [slot] = [
        slot
        for slot in get(client, f"videos/{video}/memories")
        if (slot["segment_id"], slot["timestamp_s"]) == (events[1]["segment_id"], moment["timestamp_s"])
    ]
    assert moment["thumbnail"] == slot["thumbnail"]
    assert client.get(f"/{moment['thumbnail']}").headers["content-type"] == "image/jpeg"


def test_whole_videos_answer_when_they_are_named(client: TestClient, drawn: Drawn) -> None:
    videos = sorted(drawn.scenes)[:2]
    events = told(client, question="What appears first?", video_ids=videos)
    begun = [event for event in events if event["event"] == "begun"]
    assert [event["video_id"] for event in begun] == videos
    assert {event["segment_id"] for event in begun} == {None}
    assert sum(event["event"] == "answered" for event in events) == 2


def test_what_the_archive_does_not_show_is_not_answered(client: TestClient, drawn: Drawn) -> None:
    absent = [
        f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES if not drawn.showing(colour, shape)
    ]
    searcher = Searcher(drawn.place)
    least = min(absent, key=lambda name: searcher.search(name, k=1)[0].similarity or 0.0)
    events = told(client, question=least)
    assert [event["event"] for event in events] == ["started", "done"]
    assert not events[-1]["found"]
    assert events[-1]["similarity"] < events[-1]["threshold"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "search", None, 422),
        ("GET", "search?text=", None, 422),
        ("GET", "search?text=%20", None, 422),
        ("GET", "search?text=a&limit=101", None, 422),
        ("GET", "search?text=a&limit=0", None, 422),
        ("GET", "search?text=a&video=x'%20OR%201=1", None, 422),
        ("GET", f"search?text={'a' * 501}", None, 422),
        ("GET", "search?text=a&since=soon", None, 422),
        ("GET", "search?text=a&since=1700000000", None, 422),
        ("GET", "videos?until=-9.6e-189", None, 422),
        ("GET", "search?text=a&cursor=../etc", None, 422),
        ("GET", f"videos/{'0' * 24}", None, 404),
        ("GET", f"videos/{'0' * 24}/memories", None, 404),
        ("GET", f"memories/{'0' * 24}-0000/thumbnail", None, 404),
        ("GET", "nothing", None, 404),
        ("DELETE", "videos", None, 405),
        ("POST", "ask", {}, 422),
        ("POST", "ask", {"question": " "}, 422),
        ("POST", "ask", {"question": "a" * 1001}, 422),
        ("POST", "ask", {"question": "What?", "k": 1000}, 422),
        ("POST", "ask", {"question": "What?", "video_ids": ["0" * 24]}, 404),
        ("POST", "ask", {"question": "What?", "path": "/etc/passwd"}, 422),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_sentence(
    client: TestClient, method: str, path: str, body: object, status: int
) -> None:
    answer = client.request(method, f"/api/{path}", json=body)
    assert answer.status_code == status
    assert answer.json().keys() == {"kind", "message"}
    assert answer.json()["message"]
