"""Texts are found by words of their language, and English texts as if there were no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from lancedb.query import MatchQuery
from support.archive_rows import RECIPE, VECTOR_SIZE, annotation, annotation_table, run

from malmm.pipeline.archive.migration import migrate
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.archive.text_grams import GRAMS_COLUMN
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.searching.candidates import Candidates

ENGLISH = (
    "A red car is moving left across the street",
    "The carpet is red and the scarf is blue",
    "a red star moving up, then a red car",
    "two cars and a bus stand in front of a cafe",
    "A man reads a book about starting over",
)
OTHERS = (
    "남자가 빨간 자동차를 운전하고 있습니다",
    "고양이가 소파에서 잔다",
    "赤い車が道路を走っています",
    "黑色的猫坐在椅子上",
    "一个男人在弹吉他",
    "Ein Feuerwehrfahrzeug fährt über die Autobahnbrücke",
    "eine schwarze Katze schläft auf dem Sofa",
    "un élève va à l'église",
    "el niño juega con una pelota roja",
    "красная машина стоит около дома",
)
# What people type, and the text that they mean.
QUERIES = {
    "자동차": OTHERS[0],
    "고양이": OTHERS[1],
    "車": OTHERS[2],
    "赤い車": OTHERS[2],
    "猫": OTHERS[3],
    "黑猫": OTHERS[3],
    "吉他": OTHERS[4],
    "Fahrzeug": OTHERS[5],
    "Brücke": OTHERS[5],
    "Katzen": OTHERS[6],
    "eleve": OTHERS[7],
    "église": OTHERS[7],
    "nino": OTHERS[8],
    "машину": OTHERS[9],
    "car street": ENGLISH[0],
    "cars": ENGLISH[3],
    "starting": ENGLISH[4],
}


def add(archive: Archive, *texts: str) -> None:
    archive.add_annotations(
        annotation_table(*(annotation(None, subject=text) | {"text": text} for text in texts))
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Half of the texts in the indexes, half not yet."""
    made = Archive.create_or_open(str(tmp_path_factory.mktemp("languages") / "archive"), RECIPE, VECTOR_SIZE)
    add(made, *ENGLISH[::2], *OTHERS[::2])
    made.update_indexes(at_once=True)
    add(made, *ENGLISH[1::2], *OTHERS[1::2])
    return made


@pytest.mark.parametrize("words", QUERIES)
def test_words_find_their_text(archive: Archive, words: str) -> None:
    hits = Candidates(archive).hits(words, 100, Scope())
    assert hits[0].text == QUERIES[words]
    assert len({hit.text for hit in hits}) == len(hits)


@pytest.mark.parametrize("words", ["red car", "cars", "star", "a red star moving up", "book", "bus in front"])
def test_english_texts_keep_their_ranking(archive: Archive, words: str) -> None:
    asked = archive.table("annotations").search(MatchQuery(words, "text"), query_type="fts")
    english = [row["text"] for row in asked.limit(100).to_list()]
    assert [hit.text for hit in Candidates(archive).hits(words, 100, Scope())][: len(english)] == english
    few = Candidates(archive).hits(words, 1, Scope())
    assert [hit.text for hit in few] == english[:1]


@pytest.mark.parametrize("words", ["자전거", "犬", "Hubschrauber", "bicycle", "?!", "сад"])
def test_words_of_no_text_find_nothing(archive: Archive, words: str) -> None:
    assert Candidates(archive).hits(words, 100, Scope()) == []


def test_an_archive_without_the_column_is_searched_and_gets_it(tmp_path: Path) -> None:
    archive = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    with archive.held(), archive.changes.changing("annotations", "drop a column of") as dataset:
        # As 0.1 made it.
        dataset.drop_columns([GRAMS_COLUMN])
    run(archive, (0,))
    add(archive, *OTHERS[:4], ENGLISH[0])
    assert Candidates(archive).hits("猫", 100, Scope()) == []
    assert [hit.text for hit in Candidates(archive).hits("moving", 100, Scope())] == [ENGLISH[0]]
    archive.update_indexes(at_once=True)
    before = archive.annotations()

    with archive.held():
        assert migrate(archive.changes) == ["annotations.text_grams"]
        archive.update_indexes(at_once=True)
        assert migrate(archive.changes) == []
    assert archive.annotations().equals(before)
    add(archive, OTHERS[4])
    for words in ("猫", "고양이", "吉他"):
        assert [hit.text for hit in Candidates(archive).hits(words, 100, Scope())] == [QUERIES[words]]
