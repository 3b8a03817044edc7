"""The command line of an evaluation, with its stages in this process."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path
from typing import Any

import pytest
from support.inline_evaluation import InlineEvaluation
from support.processes import run_here

from malmm.jobs.commands import evaluate
from malmm.model.demo.questions import questions
from malmm.model.demo.videos import draw_video
from malmm.pipeline.evaluation import run
from malmm.pipeline.evaluation.catalogue import DATA_SETS
from malmm.pipeline.evaluation.graph import Stages
from malmm.pipeline.schema.cluster_use import ClusterUse


@pytest.fixture(scope="module")
def inline() -> InlineEvaluation:
    return InlineEvaluation()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn video, and a table of questions about it and about one that is not there."""
    folder = tmp_path_factory.mktemp("videos")
    scenes = draw_video(folder / "one.mp4", seconds=4.0, seed=(7,))
    asked = [each for each in questions(scenes) if each.kind in ("first", "exists")]
    with (folder / "questions.csv").open("w", newline="") as written:
        table = csv.writer(written)
        table.writerow(["video", "question", "answer", "task"])
        table.writerows(["one.mp4", each.prompt, each.answer, each.kind] for each in asked)
        table.writerow(["gone.mp4", "What appears <b>first</b>?", "a star", "first"])
    return folder


@pytest.fixture
def arguments(
    videos: Path, tmp_path: Path, inline: InlineEvaluation, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    monkeypatch.setattr(run, "asking", inline)
    options = ("--annotations", str(videos / "questions.csv"), "--videos", str(videos), "--output")
    return [
        "evaluate",
        "--dataset",
        "own",
        *options,
        str(tmp_path / "scores"),
        "--frames",
        "4",
        "--max-length",
        "12",
    ]


def test_names_of_data_sets_are_those_of_the_catalogue() -> None:
    assert set(evaluate._DATA_SETS) == DATA_SETS.keys()


def test_figures_are_printed_and_written(arguments: list[str], tmp_path: Path) -> None:
    done = run_here(*arguments)
    lines = done.stdout.splitlines()
    # One video is missing.
    assert done.returncode == 3
    assert lines[0] == "Data set   Own questions, test"
    assert lines[2].startswith("Questions  ")
    assert lines[3].startswith("top-1      ")
    assert "Missing    1 videos, such as gone.mp4" in lines
    assert lines[-1] == f"Report     {tmp_path / 'scores' / 'report.html'}"
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "<svg" in page
    assert "gone.mp4" in page
    assert "<script" not in page
    again = run_here(*arguments, "--json")
    said = json.loads(again.stdout)
    assert said["missing_videos"] == ["gone.mp4"]
    assert said["questions"] == said["answered"] + 1
    assert json.loads((tmp_path / "scores" / "report.json").read_text())["ways"] == said["ways"]
    # The page has the figure with its interval, and what was answered right and wrong.
    [figure] = said["ways"][0]["figures"]
    assert f"{figure['value']:.1f}, from {figure['low']:.1f} to {figure['high']:.1f}" in page
    for title, rows in (("Right", said["right"]), ("Wrong", said["wrong"])):
        assert (f"<h2>{title}</h2>" in page) == bool(rows)
        assert all(html.escape(row["prompt"]) in page for row in rows)
    assert said["right"] or said["wrong"]


def test_another_part_of_the_cluster_goes_on_with_the_same_answers(
    arguments: list[str], inline: InlineEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = ("--share", "0.5", "--nodes", "2", "--label", "zone=a", "--label", "kind=gpu")
    uses: list[ClusterUse] = []

    def noting(clips: Any, stages: Stages) -> Any:
        uses.append(stages.config.cluster)
        return inline(clips, stages)

    monkeypatch.setattr(run, "asking", noting)
    first = json.loads(run_here(*arguments, *part, "--json").stdout)
    assert uses == [ClusterUse(0.5, 2, (("zone", "a"), ("kind", "gpu")))]
    asked = inline.asked
    assert json.loads(run_here(*arguments, "--json").stdout)["recipe"] == first["recipe"]
    assert inline.asked == asked


def test_ways_are_named_and_compared(arguments: list[str], tmp_path: Path) -> None:
    done = run_here(*arguments, "--ways", "bank,uniform", "--bank-length", "2")
    assert any(line.endswith("(uniform)") for line in done.stdout.splitlines())
    assert any(line.endswith("(uniform less bank)") for line in done.stdout.splitlines())
    page = (tmp_path / "scores" / "report.html").read_text()
    assert "Ways of watching" in page
    assert "uniform less bank" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--frames", "0"), "--frames 0: from 1"),
        (("--template", "no place"), "--template 'no place': has {} once"),
        (("--template", "{} in {place}"), "and no other braces"),
        (("--ways", "bank,bank"), "--ways bank,bank: each once"),
        (("--ways", "bank", "--compare"), "leave one of the two out"),
        (("--choose-by", "chance"), "--choose-by 'chance': one of text, letter, written"),
        (("--beams", "0"), "--beams 0"),
        (("--limit", "0"), "--limit 0: at least 1"),
        (("--model", "a", "--model", "b"), "--model a: one checkpoint, or one for each task as TASK=DIR"),
        (("--model", "scene=a", "--model", "genre=b"), "own has one model for all tasks"),
        (
            ("--dataset", "lvu", "--model", "relation=a"),
            "--model relation=: the tasks of lvu are director, genre,",
        ),
        (("--resource", "luck=1"), "--resource luck: one of"),
        (("--share", "0"), "--share 0: above 0 and at most 1"),
        (("--label", "zone"), "--label zone=: write NAME=VALUE"),
        (("--dataset", "imagenet"), "invalid choice: 'imagenet'"),
    ],
)
def test_wrong_usage_is_one_sentence(
    options: tuple[str, ...], said: str, arguments: list[str], tmp_path: Path
) -> None:
    done = run_here(*arguments, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "scores").exists()


def test_a_file_of_another_form_is_one_sentence(arguments: list[str], videos: Path, tmp_path: Path) -> None:
    done = run_here(*arguments, "--dataset", "lvu")
    assert (done.returncode, done.stdout) == (1, "")
    assert "questions.csv is not LVU's annotations" in done.stderr
    assert not (tmp_path / "scores").exists()
