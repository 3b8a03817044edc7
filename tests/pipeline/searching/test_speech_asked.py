"""A question whose words are said is answered where they are said, by a model that reads what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.drawn_archive import Drawn, make_archive
from support.tiny_towers import save_tiny_tower

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.given_texts import GivenRows, GivenText, Track
from malmm.pipeline.searching.asker import Asker
from malmm.pipeline.searching.searcher import Searcher
from malmm.pipeline.searching.speech import has_words_of

SAID = "A B-tree keeps its keys in order. Range queries are cheap."
QUESTION = "How does a B-tree keep its keys?"


@pytest.mark.parametrize(
    ("question", "are_said"),
    [
        (QUESTION, True),
        ("How are the keys of a B-tree kept?", True),
        ("What does she say about range queries?", True),
        ("Could you tell me of B-trees?", True),
        ("Which way does the red square move?", False),
        ("What is a hash join?", False),
        ("Is a range of mountains shown in winter?", False),
        ("What?", False),
        ("", False),
    ],
)
def test_two_thirds_of_a_questions_own_words_have_to_be_said(question: str, are_said: bool) -> None:
    assert has_words_of(question, SAID) is are_said


def tell(place: str) -> str:
    """Have a speaker say it at 0:03 in the archive's first video. Returns the video's id."""
    row = ArchiveReader.open(place).videos().to_pylist()[0]
    texts = [
        (
            row["video_id"],
            Track(origin="talk.srt", language="en"),
            GivenText(3.0 + n, 4.0 + n, f"{sentence}."),
        )
        for n, sentence in enumerate(SAID.removesuffix(".").split(". "))
    ]
    archive = Archive.open(place)
    with archive.held():
        archive.put_given(GivenRows({row["video_id"]: row["fingerprint"]}).of(texts))
        archive.update_indexes()
    return str(row["video_id"])


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Asker:
    place = tmp_path_factory.mktemp("talk")
    save_tiny_tower(place / "tower", "siglip")
    settings = place / "tower" / "config.json"
    # No picture is near enough to any question.
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"relevance_threshold": 1.01}))
    drawn = make_archive(
        place, videos=1, seconds=8.0, model="demo-smolvlm", retrieval_model=str(place / "tower")
    )
    tell(drawn.place)
    return Asker(Searcher(drawn.place), max_new_tokens=8)


def test_a_question_is_answered_where_its_words_are_said(reading: Asker) -> None:
    reply = reading.ask(QUESTION)
    assert reply.threshold == 1.01
    assert reply.similarity is not None
    assert any(moment.start_s < 3.5 < moment.end_s for moment in reply.answers[0].moments)


def test_what_nobody_says_or_shows_is_not_answered(reading: Asker) -> None:
    assert not reading.ask("Which keys does the locksmith cut from brass?").found


def test_a_similarity_that_was_asked_for_alone_counts(reading: Asker) -> None:
    assert not reading.ask(QUESTION, threshold=1.01).found


def test_a_model_that_reads_no_speech_does_not_answer_from_it(drawn: Drawn, tmp_path: Path) -> None:
    place = str(tmp_path / "archive")
    shutil.copytree(drawn.place, place)
    tell(place)
    [found] = Searcher(place).search(QUESTION, k=1, signals=("text",))
    assert found.text == "A B-tree keeps its keys in order."
    reply = Asker(Searcher(place)).ask(QUESTION)
    assert not reply.found
