from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.drawn_archive import Drawn

from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.searching.asker import Answer, Asker, ask
from malmm.pipeline.searching.searcher import Searcher


@pytest.fixture(scope="module")
def asker(drawn: Drawn) -> Asker:
    return Asker(Searcher(drawn.place))


def test_answers_come_from_what_is_stored_and_say_where(drawn: Drawn, asker: Asker) -> None:
    right = asked = 0
    for name, video, scene in drawn.only_once():
        [thing] = [thing for thing in scene.objects if thing.name == name]
        reply = asker.ask(f"Which way does the {name} move?", k=1)
        asked += 1
        if reply.found and reply.answers[0].video_id == video:
            best = reply.answers[0]
            assert best.moments
            assert best.start_s <= best.moments[0].start_s < best.end_s + 1e-6
            right += best.text == ("it does not move" if thing.motion == "still" else thing.motion)
    assert asked > 5
    assert right / asked > 0.6


def test_named_videos_answer_as_a_whole(drawn: Drawn, asker: Asker) -> None:
    videos = list(drawn.scenes)[:2]
    reply = asker.ask("What appears first?", video_ids=videos)
    assert [answer.video_id for answer in reply.answers] == videos
    for answer in reply.answers:
        assert answer.segment_id is None
        assert (answer.start_s, answer.end_s) == pytest.approx((0, 40), abs=0.2)
        assert all(moment.video_id == answer.video_id for moment in answer.moments)


def test_an_answer_is_what_replaying_the_prompt_gives(drawn: Drawn, asker: Asker) -> None:
    """The whole video's caption in the archive is a replay of the caption's prompt."""
    [video, *_] = drawn.scenes
    texts = drawn.reader.annotations(video).to_pylist()
    [whole] = [row for row in texts if row["segment_id"] is None]
    assert asker.ask(whole["prompt"], video_ids=[video]).answers[0].text == whole["text"]


def test_nothing_relevant_is_said_and_not_invented(asker: Asker) -> None:
    reply = asker.ask("Which way does the red circle move?", threshold=1.01)
    assert not reply.found
    assert reply.answers == ()
    assert reply.threshold == 1.01
    assert reply.similarity is not None
    assert reply.similarity < 1.01
    assert reply.to_dict()["found"] is False


def test_answers_need_no_video(drawn: Drawn, tmp_path: Path) -> None:
    moved = tmp_path / "archive"
    shutil.copytree(drawn.place, moved)
    [video, *_] = drawn.scenes
    # The copy's rows name videos by the old address; nothing of it is opened.
    reply = ask(str(moved), "What appears first?", video_ids=[video])
    assert reply.answers[0].text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"question": " "}, "an empty question"),
        ({"question": "What?", "k": 0}, "-k 0"),
        ({"question": "What?", "video_ids": ["0" * 24]}, "holds no video"),
    ],
)
def test_questions_that_cannot_be(asker: Asker, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asker.ask(**options)


def test_an_empty_archive_is_said_to_be(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    with pytest.raises(ArchiveError, match="is empty"):
        ask(made.root, "What?")


def test_two_questions_at_once_do_not_see_each_other(drawn: Drawn, asker: Asker) -> None:
    """Both have begun before either is answered, and each is told its own words alone."""
    [first, second, *_] = drawn.scenes
    asked = {first: "What appears first?", second: "Which way does the circle move?"}
    alone = {video: asker.ask(text, video_ids=[video]).answers[0].text for video, text in asked.items()}
    both = threading.Barrier(2)
    begun: dict[str, list[str]] = {video: [] for video in asked}
    words: dict[str, list[str]] = {video: [] for video in asked}

    def answer(video: str) -> str:
        def on_begun(answer: Answer) -> None:
            begun[video].append(answer.video_id)
            both.wait(120)

        reply = asker.ask(asked[video], video_ids=[video], on_begun=on_begun, on_words=words[video].append)
        return reply.answers[0].text

    with ThreadPoolExecutor(2) as threads:
        answered = dict(zip(asked, threads.map(answer, asked), strict=True))
    assert answered == alone
    assert begun == {video: [video] for video in asked}
    assert {video: "".join(parts).strip() for video, parts in words.items()} == alone
