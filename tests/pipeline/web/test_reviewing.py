"""Who may review, what is kept of it, and in which order texts come."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from support.old_archive import unpacked

from malmm.pipeline.archive.forget import ForgetConfig, forget
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.review_queue import review_queue
from malmm.pipeline.archive.reviews import Review, add_reviews, newest_reviews
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.stable_ids import stable_id
from malmm.pipeline.schema.tables import ANNOTATIONS
from malmm.pipeline.web.access import Access, read_access
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

TOKENS = (
    Access("ann", "review", "correct-horse-battery"),
    Access("bob", "read", "another-horse-battery"),
)


@pytest.fixture
def place(tmp_path: Path) -> str:
    return unpacked(tmp_path)


@pytest.fixture
def client(place: str) -> TestClient:
    config = ServeConfig(place, host="0.0.0.0", tokens=TOKENS)  # noqa: S104
    # Without its lifespan no model is loaded.
    return TestClient(make_app(config), base_url="http://films.example.org")


def as_(access: Access) -> dict[str, str]:
    return {"Authorization": f"Bearer {access.token}"}


def test_a_review_needs_the_right_and_keeps_who_and_when(client: TestClient, place: str) -> None:
    ann, bob = map(as_, TOKENS)
    before = ArchiveReader.open(place).tables.rows("annotations").to_pylist()
    page = client.get("/api/reviews", headers=bob, params={"prompt": "caption"}).json()
    assert page["total"] == len(page["items"]) > 1
    one, two = page["items"][:2]
    given = {"annotation_id": one["annotation_id"], "verdict": "wrong", "correction": "a whale"}
    refused = client.post("/api/reviews", headers=bob, json=given)
    assert (refused.status_code, refused.json()["kind"]) == (403, "right")
    assert client.post("/api/reviews", json=given).status_code == 401
    taken = client.post("/api/reviews", headers=ann, json=given).json()
    assert (taken["verdict"], taken["correction"], taken["reviewer"]) == ("wrong", "a whale", "ann")
    assert taken["text"] == one["text"]
    client.post("/api/reviews", headers=ann, json={"annotation_id": two["annotation_id"], "verdict": "right"})
    left = client.get("/api/reviews", headers=bob, params={"prompt": "caption"}).json()
    assert left["total"] == page["total"] - 2
    wrong = client.get("/api/reviews", headers=bob, params={"state": "wrong"}).json()["items"]
    assert [each["annotation_id"] for each in wrong] == [one["annotation_id"]]
    # The newest counts, and all are kept.
    client.post("/api/reviews", headers=ann, json={"annotation_id": one["annotation_id"], "verdict": "right"})
    assert client.get("/api/reviews", headers=bob, params={"state": "wrong"}).json()["total"] == 0
    assert TableReader(place).rows("reviews").num_rows == 3
    assert ArchiveReader.open(place).tables.rows("annotations").to_pylist() == before
    for wrong_one, status in (
        ({"annotation_id": "0" * 24, "verdict": "right"}, 404),
        ({"annotation_id": one["annotation_id"], "verdict": "right", "correction": "x"}, 422),
        ({"annotation_id": one["annotation_id"], "verdict": "maybe"}, 422),
    ):
        assert client.post("/api/reviews", headers=ann, json=wrong_one).status_code == status
    assert client.get("/api/session", headers=ann).json()["may_review"]
    assert client.get("/api/session", headers=bob).json()["name"] == "bob"


def test_each_token_has_a_cookie_of_its_own(client: TestClient) -> None:
    for access in TOKENS:
        client.cookies.clear()
        assert client.post("/api/session", json={"token": access.token}).json()["name"] == access.name
        assert client.get("/api/session").json()["may_review"] == access.may_review


def test_low_scores_come_first_and_texts_without_a_score_last(place: str) -> None:
    archive = Archive.open(place)
    rows = archive.tables.rows("annotations")
    [template] = rows.slice(0, 1).to_pylist()
    scored = [
        {name: template.get(name) for name in ANNOTATIONS.names}
        | {"annotation_id": stable_id(score), "prompt_name": "k", "prompt_version": "v"}
        | {"score": score, "task": "classification"}
        for score in (0.9, 0.2, 0.5)
    ]
    archive.add_annotations(pa.Table.from_pylist(scored, schema=ANNOTATIONS))
    scores = [each.row["score"] for each in review_queue(archive)]
    known = [score for score in scores if score is not None]
    assert known == pytest.approx([0.2, 0.5, 0.9])
    assert scores[3:] == [None] * (len(scores) - 3)


def test_many_review_at_once_and_a_video_that_is_forgotten_takes_its_reviews_along(place: str) -> None:
    archive = ArchiveReader.open(place)
    rows = [each.row for each in review_queue(archive)][::3]

    def review(number: int) -> None:
        for row in rows[number::4]:
            add_reviews(place, [Review.of(row, "right", None, f"reviewer{number}")])

    with ThreadPoolExecutor(4) as people:
        list(people.map(review, range(4)))
    found = newest_reviews(archive)
    assert len(found) == len(rows)
    video = rows[0]["video_id"]
    report = forget(ForgetConfig(place, (video,)))
    assert report.rows["reviews"] == sum(row["video_id"] == video for row in rows)
    assert {review.video_id for review in newest_reviews(ArchiveReader.open(place)).values()} == {
        row["video_id"] for row in rows
    } - {video}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no token"),
        ("ann review\n", "line 1: write a name, a right"),
        ("# note\nann write correct-horse-battery\n", "line 2: the right 'write'"),
        ("ann read short\n", "line 1: the token is too easy"),
        ("ann read correct-horse-battery\nann review another-horse-battery\n", "line 2: this name or token"),
    ],
)
def test_files_of_tokens_are_refused_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_access(path)
    path.write_text("# who\nann review correct-horse-battery\n\nbob read another-horse-battery\n")
    assert read_access(path) == TOKENS
