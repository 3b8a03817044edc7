"""Every data set's stand-in from annotations to report, with the demo model, in this process."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.inline_evaluation import InlineEvaluation
from support.media import run_ffmpeg
from support.stand_ins import SECONDS, STAND_INS, World
from support.tiny_families import save_tiny

from malmm.pipeline.evaluation.catalogue import DATA_SETS
from malmm.pipeline.evaluation.config import EvaluateConfig
from malmm.pipeline.evaluation.graph import Stages, picker_options
from malmm.pipeline.evaluation.metrics.meteor import missing_for_meteor
from malmm.pipeline.evaluation.report import EvaluationReport, markdown
from malmm.pipeline.evaluation.run import evaluate
from malmm.pipeline.schema.errors import ConfigError, DataSetError
from malmm.pipeline.schema.ways_of_watching import WATCHING

# One frame a second, and short answers: what is asked is the authors', and little is watched.
QUICK = {"frames": SECONDS, "bank_length": 5, "max_length": 6}
# Questions of the demo world that are answered in a few words.
SHORT, SPOKEN = ("first", "exists", "colour"), {"max_length": 40}


@pytest.fixture(scope="module")
def inline() -> InlineEvaluation:
    return InlineEvaluation()


def config_of(name: str, world: World, place: Path, **changes: Any) -> EvaluateConfig:
    annotations = place / "annotations"
    if not annotations.exists():
        STAND_INS[name][0](world, annotations)
    protocol = dataclasses.replace(DATA_SETS[name].protocol, **(QUICK | changes.pop("protocol", {})))
    options: dict[str, Any] = {
        "dataset": name,
        "annotations": annotations / STAND_INS[name][1],
        "videos": world.folder,
        "output": place / "output",
        "protocol": protocol,
    }
    return EvaluateConfig(**(options | changes))


def value(report: EvaluationReport, name: str) -> float:
    return next(each.value for each in report.ways[0].figures if each.name == name)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_in_runs_end_to_end(
    name: str, world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    # A sample of one clip.
    config = config_of(name, world, tmp_path, limit=1)
    report = evaluate(config, run=inline)
    assert (report.exit_code, report.failures, report.missing_videos) == (0, [], [])
    assert report.answered == report.questions > 0
    kind = DATA_SETS[name]
    names = [each.name for each in report.ways[0].figures]
    if kind.scoring == "captions":
        assert names[:6] == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE_L"]
        # Where METEOR cannot be computed, the report says so.
        assert ("METEOR" in names) == (not missing_for_meteor())
        assert missing_for_meteor() in (*report.notes, "")
    else:
        assert names == (["top-1", "top-5"] if kind.protocol.returned == 5 else ["top-1"])
    assert [each["value"] for each in report.published] == [each.value for each in kind.published]
    # Frames and lengths are not the authors', and the report says so.
    assert report.reservations[0].startswith("asked otherwise: frames 8 in place of")
    # Nor is the model.
    unfit = "the model demo, which knows drawn videos at most"
    assert (unfit in report.reservations) == bool(kind.published)
    stored = json.loads((config.output / "report.json").read_text())
    assert stored["ways"][0]["figures"][0]["value"] == report.ways[0].figures[0].value
    text = (config.output / "report.md").read_text()
    assert text == markdown(report)
    assert f"# {kind.title}, {kind.split}" in text


def test_the_demo_model_knows_its_world(world: World, tmp_path: Path, inline: InlineEvaluation) -> None:
    config = config_of("demo", world, tmp_path, tasks=SHORT, protocol=SPOKEN)
    report = evaluate(config, run=inline)
    # Three short videos of one or two scenes: nearly all right; a guess is right in one of six or less.
    assert value(report, "top-1") > 80
    assert report.ways[0].tasks["first"].value > 60
    assert {row["video"] for row in report.right} <= {f"{name}.mp4" for name in world.scenes}
    assert all(row["texts"][0] == row["answers"][0] for row in report.right)
    assert all(row["texts"][0] != row["answers"][0] for row in report.wrong)


def test_an_interrupted_run_goes_on(world: World, tmp_path: Path, inline: InlineEvaluation) -> None:
    config = config_of("own", world, tmp_path, tasks=("first",))
    inline.interrupt_after = 1
    try:
        report = evaluate(config, run=inline)
    finally:
        inline.interrupt_after = None
    assert (report.exit_code, report.interrupted) == (130, True)
    assert 0 < report.answered < report.questions
    assert not (config.output / "report.json").exists()
    # A run that was killed in the midst of a line.
    with (config.output / "answers.jsonl").open("a") as file:
        file.write('{"clip": "half')
    before = inline.asked
    report = evaluate(config, run=inline)
    clips = len((config.output / "answers.jsonl").read_text().splitlines())
    assert (report.exit_code, inline.asked - before) == (0, clips - 1)
    whole = evaluate(
        config_of("own", world, tmp_path, tasks=("first",), output=tmp_path / "whole"), run=inline
    )
    assert whole.ways[0].figures == report.ways[0].figures
    # Everything is answered: nothing is asked again.
    before = inline.asked
    assert evaluate(config, run=inline).ways[0].figures == report.ways[0].figures
    assert inline.asked == before


def test_questions_about_one_clip_share_a_pass(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    before = inline.asked
    report = evaluate(config_of("msvd-qa", world, tmp_path, limit=1), run=inline)
    assert report.questions > inline.asked - before == 1


def test_missing_short_and_broken_videos_are_named(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(world.folder / "drawn0.mp4", videos)
    (videos / "drawn1.mp4").write_bytes(b"no video")
    config = config_of("breakfast", world, tmp_path, videos=videos)
    path = config.annotations / "val.json"
    content = json.loads(path.read_text())
    content["longer"] = {"duration": 99, "frame_length": 990, "class_name": "star"}
    path.write_text(json.dumps(content))
    shutil.copy(world.folder / "drawn0.mp4", videos / "longer.mp4")
    report = evaluate(config, run=inline)
    assert (report.exit_code, report.answered, report.questions) == (3, 1, 4)
    assert report.missing_videos == ["drawn2"]
    said = {each["video"]: each["message"] for each in report.failures}
    assert said.keys() == {"drawn1", "longer"}
    assert "is shorter than its annotation says: it has 8.0 s, and 99.0 s are asked for" in said["longer"]
    assert all("\n" not in message for message in said.values())
    assert "3 of 4 questions are not answered" in report.reservations
    # Failed clips are tried again, and only they.
    shutil.copy(world.folder / "drawn1.mp4", videos / "drawn1.mp4")
    before = inline.asked
    assert evaluate(config, run=inline).answered == 2
    assert inline.asked - before == 2


def test_extracted_frames_are_read_in_place_of_videos(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    frames = tmp_path / "frames"
    for video in world.scenes:
        (frames / video).mkdir(parents=True)
        # As the authors' script extracts them.
        target = frames / video / "frame%06d.jpg"
        run_ffmpeg(
            "-i", world.folder / f"{video}.mp4", "-vf", "scale=-1:256", "-q:v", "1", "-r", "10", target
        )
    options: dict[str, Any] = {"videos": frames, "tasks": SHORT, "protocol": SPOKEN}
    config = config_of("demo", world, tmp_path, **options)
    report = evaluate(config, run=inline)
    assert (report.exit_code, report.answered) == (0, report.questions)
    assert value(report, "top-1") > 60
    (frames / "drawn0" / "frame000001.jpg").rename(frames / "drawn0" / "other.jpg")
    (frames / "drawn1" / "frame000001.jpg").write_bytes(b"no picture")
    again = evaluate(config_of("demo", world, tmp_path, output=tmp_path / "again", **options), run=inline)
    assert [each["kind"] for each in again.failures] == ["decode_error"]
    assert again.missing_videos == ["drawn0.mp4"]


AUTHORS = (
    "lvu",
    "breakfast",
    "coin",
    "msrvtt-qa",
    "msvd-qa",
    "activitynet-qa",
    "msrvtt-caption",
    "msvd-caption",
    "youcook2",
)


@pytest.mark.parametrize("name", STAND_INS)
def test_extracted_frames_of_the_authors_data_sets_are_scaled_as_theirs(
    name: str, world: World, tmp_path: Path
) -> None:
    options = picker_options(Stages(config_of(name, world, tmp_path), 96, lambda progress: None))
    assert options["as_authors"] == (name in AUTHORS)


def test_nothing_is_written_where_the_data_set_cannot_be_used(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    config = config_of("breakfast", world, tmp_path)
    (tmp_path / "empty").mkdir()
    for videos, said in (
        (tmp_path / "empty", "has none of the 3 videos that are asked about, such as drawn0"),
        (tmp_path / "nowhere", "--videos is the folder"),
    ):
        with pytest.raises(DataSetError, match="videos") as caught:
            evaluate(dataclasses.replace(config, videos=videos), run=inline)
        assert said in str(caught.value)
    shutil.copy(config.annotations / "val.json", config.annotations / "train.json")
    with pytest.raises(DataSetError, match="3 videos are in training and in the val split, such as drawn0"):
        evaluate(config, run=inline)
    assert not config.output.exists()
    report = evaluate(dataclasses.replace(config, allow_leak=True), run=inline)
    assert report.leaked == ["drawn0", "drawn1", "drawn2"]
    assert "3 videos are in training too" in report.reservations


def test_a_leak_is_found_by_another_name_of_the_video(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    table = tmp_path / "questions.csv"
    table.write_text("video,question,answer,split\ndrawn0,Q?,a,test\ndrawn0.mp4,Q?,a,train\n")
    config = dataclasses.replace(config_of("own", world, tmp_path), annotations=table)
    with pytest.raises(DataSetError, match="1 videos are in training and in the test split, such as drawn0"):
        evaluate(config, run=inline)
    assert not config.output.exists()


def test_each_task_may_have_a_model_of_its_own(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    save_tiny(tmp_path / "tiny", "smolvlm")
    models = (("scene", "demo"), ("genre", str(tmp_path / "tiny")))
    quick: dict[str, Any] = {"protocol": {"beams": 1, "returned": 1}}
    config = config_of("lvu", world, tmp_path, models=models, **quick)
    report = evaluate(config, run=inline)
    assert (report.exit_code, report.questions) == (0, 2 * len(world.scenes))
    # Each is what an evaluation of the task alone gives, and the figure is their mean.
    for task, model in models:
        options = quick | {"model": model, "tasks": (task,), "output": tmp_path / f"only-{task}"}
        alone = config_of("lvu", world, tmp_path, **options)
        assert evaluate(alone, run=inline).ways[0].tasks == {task: report.ways[0].tasks[task]}
        assert json.loads((config.output / task / "report.json").read_text())["recipe"]["model"] == model
    shares = [figure.value for figure in report.ways[0].tasks.values()]
    assert value(report, "top-1") == pytest.approx(sum(shares) / 2)
    assert report.recipe["models"].keys() == {"scene", "genre"}
    assert "without the tasks director, relationship, way_speaking, writer, year" in report.reservations
    assert f"scene=demo, genre={tmp_path / 'tiny'}" in (config.output / "report.md").read_text()
    before = inline.asked
    assert evaluate(config, run=inline).ways[0].figures == report.ways[0].figures
    assert inline.asked == before


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lvu", {"models": (("plot", "a"),)}, "--model plot=: the tasks of lvu are director, genre"),
        ("own", {"models": (("scene", "a"),)}, "--model scene=: own has one model for all tasks"),
        (
            "lvu",
            {"models": (("year", "a"), ("scene", "b"), ("year", "c"))},
            "--model year=: one model a task",
        ),
        ("lvu", {"models": (("year", "a"),), "tasks": ("year",)}, "--task year: the tasks are those that"),
    ],
)
def test_models_of_tasks_that_cannot_be_are_refused(
    name: str, options: dict[str, Any], said: str, world: World, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(name, world, tmp_path, **options)
    assert said in str(caught.value)


def test_a_clip_whose_worker_is_gone_is_named_and_asked_again(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    config = config_of("breakfast", world, tmp_path, limit=1)
    inline.lose = True
    try:
        report = evaluate(config, run=inline)
    finally:
        inline.lose = False
    assert (report.exit_code, report.answered, [each["kind"] for each in report.failures]) == (1, 0, ["lost"])
    assert not (config.output / "report.json").exists()
    again = evaluate(config, run=inline)
    assert (again.exit_code, again.answered, again.failures) == (0, 1, [])


def test_answers_by_another_recipe_are_not_mixed(
    world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    config = config_of("breakfast", world, tmp_path, limit=1)
    assert evaluate(config, run=inline).questions == 1
    with pytest.raises(ConfigError, match=r"another recipe \(limit: 1, now 2\): choose another folder"):
        evaluate(dataclasses.replace(config, limit=2), run=inline)
    # Of the protocol, only what differs is named.
    protocol = dataclasses.replace(config.protocol, beams=3, returned=3)
    with pytest.raises(ConfigError, match=r"another recipe \(beams: 5, now 3; returned: 5, now 3\): choose"):
        evaluate(dataclasses.replace(config, protocol=protocol), run=inline)


@pytest.mark.parametrize("family", ["demo", "smolvlm"])
def test_ways_of_watching_are_compared(
    family: str, world: World, tmp_path: Path, inline: InlineEvaluation
) -> None:
    model = family
    if family != "demo":
        save_tiny(tmp_path / "model", family)
        model = str(tmp_path / "model")
    config = config_of(
        "demo",
        world,
        tmp_path,
        model=model,
        ways=WATCHING,
        pieces=2,
        limit=1,
        tasks=("first",),
        protocol={"bank_length": 3},
    )
    report = evaluate(config, run=inline)
    assert (report.exit_code, [each.way for each in report.ways]) == (0, list(WATCHING))
    by_way = {each.way: each for each in report.ways}
    bank = by_way["bank"]
    # Equal budgets: the same slots, or as many tokens of notes at most.
    for way in ("uniform", "last"):
        assert (by_way[way].visual_tokens, by_way[way].language_tokens) == (
            bank.visual_tokens,
            bank.language_tokens,
        )
    assert by_way["all"].visual_tokens > bank.visual_tokens
    assert 0 < by_way["captions"].language_tokens <= bank.language_tokens
    assert by_way["captions"].visual_tokens == 0
    if family != "demo":
        assert by_way["captions+bank"].language_tokens <= bank.language_tokens
    assert by_way["captions"].stored_bytes < bank.stored_bytes < by_way["all"].stored_bytes
    assert all(each.encode_s > 0 and each.answer_s > 0 for each in report.ways)
    assert "| captions+bank |" in (config.output / "report.md").read_text()
    # One video: each difference is that of the figures, without an interval.
    assert bank.less_first is None
    for each in report.ways[1:]:
        less = each.less_first
        assert less is not None
        assert less.value == less.low == less.high == each.figures[0].value - bank.figures[0].value
