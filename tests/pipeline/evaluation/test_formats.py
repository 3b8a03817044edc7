"""Every data set's form, on its stand-in, and what is said of files of another form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from support.stand_ins import FRAMES, STAND_INS, VIDEOS, World, own_rows, video_mme_nested

from malmm.pipeline.evaluation.catalogue import DATA_SETS
from malmm.pipeline.evaluation.formats.reading import Reading, Source
from malmm.pipeline.evaluation.formats.text import as_caption, as_question
from malmm.pipeline.evaluation.leaks import leaked_videos
from malmm.pipeline.evaluation.questions import Clip, by_clip
from malmm.pipeline.evaluation.sampling import evenly
from malmm.pipeline.schema.errors import ConfigError, DataSetError, MalmmError


def read(name: str, place: Path, **changes: Any) -> Reading:
    kind = DATA_SETS[name]
    options: dict[str, Any] = {
        "split": kind.split,
        "frames": kind.protocol.frames,
        "template": kind.protocol.template,
        "choosing": kind.protocol.choosing,
    }
    source = Source(annotations=place / STAND_INS[name][1], **(options | changes))
    return kind.read(source)


def write(name: str, world: World, place: Path) -> Path:
    STAND_INS[name][0](world, place)
    return place


def test_every_data_set_has_a_stand_in() -> None:
    assert STAND_INS.keys() == DATA_SETS.keys()


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_in_is_read(name: str, world: World, tmp_path: Path) -> None:
    reading = read(name, write(name, world, tmp_path))
    assert len({question.question_id for question in reading.questions}) == len(reading.questions)
    named = {PurePosixPath(question.clip.video).name for question in reading.questions}
    assert {name.removesuffix(".mp4") for name in named} == world.scenes.keys()
    assert all(question.prompt and question.answers for question in reading.questions)
    assert all(question.answers[0] in question.choices for question in reading.questions if question.choices)
    assert leaked_videos(reading) == []
    for clip in by_clip(reading.questions):
        assert clip.frames is None or len(clip.frames) == DATA_SETS[name].protocol.frames
        assert (clip.frames is None) == (clip.count > 0)


def test_prompts_and_frames_are_the_authors(world: World, tmp_path: Path) -> None:
    whole = Clip("drawn0", evenly(0, FRAMES - 1, 100))
    expected = {
        "lvu": ("what is the scene of the movie?", Clip("drawn0", evenly(0, 10 * 8 - 1, 100))),
        "breakfast": ("what type of breakfast is shown in the video?", whole),
        "coin": ("what is the activity in the video?", whole),
        "msvd-qa": ("Question: what appears first? Short answer:", Clip("drawn0", evenly(0, FRAMES - 1, 20))),
        "msrvtt-caption": ("what does the video describe?", Clip("drawn0", evenly(0, FRAMES - 1, 80))),
    }
    for name, (prompt, clip) in expected.items():
        found = read(name, write(name, world, tmp_path / name)).questions
        assert (prompt, clip) in {(each.prompt, each.clip) for each in found}, name


def test_questions_about_one_clip_share_it(world: World, tmp_path: Path) -> None:
    reading = read("msrvtt-qa", write("msrvtt-qa", world, tmp_path))
    assert len(by_clip(reading.questions)) == VIDEOS < len(reading.questions)
    windows = read("lvu", write("lvu", world, tmp_path))
    assert len(by_clip(windows.questions)) == VIDEOS


def test_lvu_has_a_question_a_window_and_task(world: World, tmp_path: Path) -> None:
    place = write("lvu", world, tmp_path)
    content = json.loads((place / "test.json").read_text())
    content["long"] = {"duration": 162, "num_frames": 1923, "director": "ron", "year": "5"}
    (place / "test.json").write_text(json.dumps(content))
    found = [each for each in read("lvu", place).questions if each.clip.video == "long"]
    assert [each.question_id for each in found] == [
        f"{task}/long_{start}" for task in ("director", "year") for start in (0, 20, 40, 60)
    ]
    assert {each.answers for each in found if each.task == "year"} == {("5",)}
    assert len(by_clip(found)) == 4
    only = read("lvu", place, tasks=("director",))
    assert {each.task for each in only.questions} == {"director"}


def test_videos_that_the_authors_leave_out_are(world: World, tmp_path: Path) -> None:
    place = write("breakfast", world, tmp_path)
    content = json.loads((place / "val.json").read_text())
    content["P28-cam01-P28_cereals"] = content["drawn0"]
    (place / "val.json").write_text(json.dumps(content))
    assert len(read("breakfast", place).questions) == VIDEOS
    assert len(read("coin", write("coin", world, tmp_path)).questions) == VIDEOS


def test_captions_have_all_references_and_are_asked_once(world: World, tmp_path: Path) -> None:
    reading = read("msvd-caption", write("msvd-caption", world, tmp_path))
    assert [len(each.answers) for each in reading.questions] == [2] * VIDEOS


def test_choices_are_texts_or_letters(world: World, tmp_path: Path) -> None:
    place = write("egoschema", world, tmp_path)
    texts = read("egoschema", place, choosing="text").questions[0]
    letters = read("egoschema", place, choosing="letter").questions[0]
    assert texts.answers[0] == texts.choices[1]
    assert (letters.choices, letters.answers) == (("A", "B", "C", "D", "E"), ("B",))
    assert f"(B) {texts.answers[0]}\n" in letters.prompt
    assert texts.prompt == "What appears first?"


def test_video_mme_is_read_in_all_its_forms(world: World, tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    video_mme_nested(world, tmp_path / "nested")
    nested = read("video-mme", tmp_path / "nested")
    assert nested.questions == read("video-mme", write("video-mme", world, tmp_path / "flat")).questions
    assert [each.task for each in nested.questions] == ["short", "medium", "long"]


def test_videos_of_mlvu_have_their_tasks_folder(world: World, tmp_path: Path) -> None:
    place = write("mlvu", world, tmp_path)
    rows = json.loads((place / "1_plotQA.json").read_text())
    # Another video of this name, of another task.
    (place / "2_needle.json").write_text(json.dumps([rows[0] | {"question_type": "findNeedle"}]))
    reading = read("mlvu", place)
    videos = [each.clip.video for each in reading.questions]
    assert videos == [*(f"1_plotQA/{row['video']}" for row in rows), f"2_needle/{rows[0]['video']}"]
    assert len(by_clip(reading.questions)) == len(rows) + 1


def test_choices_of_one_text_are_told_apart_by_their_place(world: World, tmp_path: Path) -> None:
    """Five published questions of MLVU have such choices; the first with the answer's text counts."""
    texts, said = ["Six", "Three", "Three", "Eight"], "Three"
    mlvu = edit(
        write("mlvu", world, tmp_path / "mlvu"),
        "1_plotQA.json",
        lambda rows: [row | {"candidates": texts, "answer": said} for row in rows],
    )
    ovo = edit(
        write("ovo-bench", world, tmp_path / "ovo"),
        "ovo_bench.json",
        lambda rows: [row | ({"options": texts, "gt": 2} if "gt" in row else {}) for row in rows],
    )
    for name, place, letter in (("mlvu", mlvu, "B"), ("ovo-bench", ovo, "C")):
        lettered, plain = read(name, place).questions[0], read(name, place, choosing="text").questions[0]
        assert (lettered.choices, lettered.answers) == (("A", "B", "C", "D"), (letter,))
        assert "(B) Three\n(C) Three\n" in lettered.prompt
        assert (plain.choices, plain.answers) == (("Six", "Three", "Eight"), (said,))


def test_ovo_bench_asks_of_the_video_up_to_a_time(world: World, tmp_path: Path) -> None:
    found = {
        each.question_id: each for each in read("ovo-bench", write("ovo-bench", world, tmp_path)).questions
    }
    assert found["EPM/0"].clip == Clip("drawn0.mp4", count=64, end_s=7.0)
    assert [found[f"SSR/90/{number}"].answers for number in range(2)] == [("Yes",), ("No",)]
    assert found["REC/91/0"].answers == ("0",)
    assert found["CRR/92/0"].choices == ("Yes", "No")
    # The name of the second release.
    (tmp_path / "ovo_bench.json").rename(tmp_path / "ovo_bench_new.json")
    assert {each.question_id for each in read("ovo-bench", tmp_path).questions} == found.keys()


def test_own_tables_are_csv_or_jsonl(world: World, tmp_path: Path) -> None:
    place = write("own", world, tmp_path)
    table = read("own", place)
    lines = place / "questions.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in own_rows(world)))
    source = Source(lines, "test", 60)
    assert DATA_SETS["own"].read(source).questions == table.questions
    last = table.questions[-1]
    assert (last.clip.start_s, last.clip.end_s, len(last.choices)) == (0.0, 7.5, 3)
    assert math.isinf(table.questions[0].clip.end_s)


def test_texts_are_prepared_as_the_authors_do() -> None:
    assert as_question('What is "he" doing (now)?  ') == "what is he doing now?"
    assert as_caption("A man... sings;  loudly!\n") == "a man sings loudly"
    assert as_caption("way_speaking") == "way_speaking"
    long = " ".join(str(number) for number in range(60))
    assert as_question(long) == as_caption(long) == " ".join(str(number) for number in range(50))


def edit(place: Path, name: str, change: Callable[[Any], Any]) -> Path:
    path = place / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return place


def entry_without(key: str) -> Callable[[Any], Any]:
    def change(content: Any) -> Any:
        first = next(iter(content.values())) if isinstance(content, dict) else content[0]
        del first[key]
        return content

    return change


def entry_with(key: str, value: Any) -> Callable[[Any], Any]:
    def change(content: Any) -> Any:
        first = next(iter(content.values())) if isinstance(content, dict) else content[0]
        first[key] = value
        return content

    return change


# The data set, its file, what is changed in it, and what the sentence says.
WRONG: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("lvu", "test.json", lambda content: list(content.values()), "not an object of objects"),
    ("lvu", "test.json", entry_without("num_frames"), "'drawn0' has no 'num_frames'"),
    (
        "lvu",
        "test.json",
        entry_with("duration", "8 s"),
        "'duration' of 'drawn0' is '8 s', not a whole number",
    ),
    ("lvu", "test.json", lambda content: {"a": {"duration": 1, "num_frames": 10}}, "no video has one of"),
    ("breakfast", "val.json", entry_with("frame_length", 0), "a video of 0 frames"),
    ("breakfast", "val.json", lambda content: {}, "it has no video"),
    ("coin", "COIN.json", lambda content: {"database": content}, "it is COIN's own file"),
    ("msrvtt-qa", "qa_test.json", entry_without("answer"), "has no 'answer'"),
    ("msrvtt-qa", "qa_ans2label.json", lambda content: [], "list of answers"),
    ("msvd-caption", "cap_test.json", entry_without("video"), "has no 'video'"),
    ("msvd-caption", "coco_gt/cap_test.json", lambda content: [], "no list 'annotations'"),
    ("msvd-caption", "coco_gt/cap_test.json", lambda content: {"annotations": []}, "'drawn0', which"),
    ("youcook2", "cap_val.json", entry_with("end_time", -1), "before it begins"),
    ("mlvu", "1_plotQA.json", entry_with("answer", "a grey cross"), "lack the answer 'a grey cross'"),
    ("mlvu", "1_plotQA.json", entry_with("candidates", ["a", "a"]), "two choices that differ"),
    ("egoschema", "subset_answers.json", lambda content: {"drawn0": 7}, "'drawn0' is 7"),
    ("egoschema", "questions.json", entry_without("option 4"), "entry 1 has no 'option 4'"),
    ("ovo-bench", "ovo_bench.json", entry_with("gt", 3), "gt is 3 and there are 3 options"),
]


@pytest.mark.parametrize(
    ("name", "file", "change", "said"),
    WRONG,
    ids=lambda each: each[:30] if isinstance(each, str) else "changed",
)
def test_another_form_is_one_sentence_that_names_the_file(
    name: str, file: str, change: Callable[[Any], Any], said: str, world: World, tmp_path: Path
) -> None:
    place = edit(write(name, world, tmp_path), file, change)
    with pytest.raises(DataSetError, match="is not ") as caught:
        read(name, place)
    message = str(caught.value)
    assert said in message
    assert str(tmp_path) in message
    assert "\n" not in message


@pytest.mark.parametrize("name", STAND_INS)
def test_missing_and_broken_files_are_one_sentence(name: str, world: World, tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="--annotations"):
        read(name, tmp_path)
    place = write(name, world, tmp_path)
    for path in [path for path in place.rglob("*") if path.is_file()]:
        path.write_bytes(b"\x00{")
    with pytest.raises(MalmmError) as caught:
        read(name, place)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "answer": "a"}, "row 1 has no 'video'"),
        ({"video": "v", "question": "q"}, "it has no answer"),
        (
            {"video": "v", "question": "q", "answer": "c", "choices": ["a", "b"]},
            "its choices lack the answer 'c'",
        ),
        ({"video": "v", "question": "q", "answer": "a", "choices": ["a", "a"]}, "two of its choices"),
        ({"video": "v", "question": "q", "answer": "a", "start_s": 3, "end_s": 2}, "from 3 s to 2 s"),
        ({"video": "v", "question": "q", "answer": "a", "end_s": "soon"}, "'soon', not a number of seconds"),
        ({"video": "v", "question": "q", "answer": "a", "split": "train"}, "no question of the split 'test'"),
    ],
)
def test_rows_of_ones_own_are_checked(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataSetError) as caught:
        DATA_SETS["own"].read(Source(path, "test", 60))
    assert said in str(caught.value)


def test_a_table_that_csv_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("video,question,answer\nv," + "?" * 200_000 + ",a\n")
    with pytest.raises(DataSetError, match=r"q\.csv is not .*it cannot be read as a CSV file \(field larger"):
        DATA_SETS["own"].read(Source(path, "test", 60))


def test_unknown_tasks_are_refused_with_those_that_there_are(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="director, genre"):
        read("lvu", write("lvu", world, tmp_path), tasks=("plot",))
    for name, known in (("mlvu", "plotQA"), ("own", "colour, exists, first, last"), ("breakfast", "none")):
        with pytest.raises(DataSetError, match=f"there are {known}"):
            read(name, write(name, world, tmp_path / name), tasks=("plot",))


LEAKS = [
    ("lvu", "train.json", lambda content: {"drawn1": content["drawn1"]}, "test.json"),
    ("breakfast", "train.json", lambda content: {"drawn1": content["drawn1"]}, "val.json"),
    ("msvd-qa", "qa_train.json", lambda content: {"x": next(iter(content.values()))}, "qa_test.json"),
    ("youcook2", "cap_train.json", lambda content: {"x": next(iter(content.values()))}, "cap_val.json"),
]


@pytest.mark.parametrize(("name", "train", "part", "test"), LEAKS, ids=lambda each: str(each)[:20])
def test_the_same_video_in_training_and_test_is_found(
    name: str, train: str, part: Callable[[Any], Any], test: str, world: World, tmp_path: Path
) -> None:
    place = write(name, world, tmp_path)
    (place / train).write_text(json.dumps(part(json.loads((place / test).read_text()))))
    assert leaked_videos(read(name, place)) in (["drawn0"], ["drawn1"])


def test_a_video_of_lvu_may_train_another_task(world: World, tmp_path: Path) -> None:
    place = write("lvu", world, tmp_path)
    (place / "train.json").write_text(json.dumps({"drawn1": {"duration": 8, "num_frames": 80, "year": "5"}}))
    assert leaked_videos(read("lvu", place)) == []


def test_answers_that_training_lacks_are_counted(world: World, tmp_path: Path) -> None:
    place = edit(write("msvd-qa", world, tmp_path), "qa_ans2label.json", lambda content: {"other": 0})
    [note] = read("msvd-qa", place).notes
    assert note.startswith(f"{len(read('msvd-qa', place).questions)} of ")
