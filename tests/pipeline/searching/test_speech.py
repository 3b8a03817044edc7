"""What is said is found by its words, and goes with a question to a model that reads text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, commit_rows, video, video_table

from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.given_texts import GivenRows, GivenText, Track
from malmm.pipeline.searching.searcher import Searcher
from malmm.pipeline.searching.speech import MOST_CHARACTERS, speech_of, with_speech

Talk = tuple[Archive, str]


@pytest.fixture
def talk(tmp_path: Path) -> Callable[..., Talk]:
    """An archive of one video with a transcript."""

    def made(*texts: GivenText) -> Talk:
        archive = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
        commit_rows(archive, 0, 1)
        archive.put_videos(video_table(0))
        said = [(video(0), Track(origin="talk.srt", language="en"), text) for text in texts]
        archive.put_given(GivenRows({video(0): "first"}).of(said))
        return archive, video(0)

    return made


@pytest.mark.parametrize(
    ("text", "words"), [("the harbour opens at dawn", "harbour"), ("der Hafen öffnet früh", "öffnet")]
)
def test_words_that_were_said_are_found_where_they_were_said(
    talk: Callable[..., Talk], text: str, words: str
) -> None:
    archive, video_id = talk(GivenText(101.2, 101.9, text))
    [found] = Searcher(archive).search(words, signals=("text",))
    assert (found.video_id, found.start_s, found.end_s, found.text) == (video_id, 101.2, 101.9, text)
    # The picture is that of the slot of the second segment that was shown then.
    assert (found.timestamp_s, found.thumbnail) == (101.5, b"\xff\xd8 not really")


def test_a_question_brings_what_is_said_nearest_to_the_moments(talk: Callable[..., Talk]) -> None:
    archive, video_id = talk(
        *(GivenText(n, n + 1, f"word {n} " + "x" * 100) for n in range(40)), GivenText(5, 6, "hi", "Ada")
    )
    heard = speech_of(archive, video_id, (0.0, 40.0), [30.0])
    assert len(heard) <= MOST_CHARACTERS
    assert "word 30 " in heard
    assert "word 1 " not in heard
    assert "Ada: hi" in speech_of(archive, video_id, (5.0, 6.0))
    assert speech_of(archive, video_id, (100.0, 200.0)) == ""
    assert with_speech("Why?", "") == "Why?"
    assert with_speech("Why?", 'he said "no"') == "What is said in the video: \"he said 'no'\"\n\nWhy?"
