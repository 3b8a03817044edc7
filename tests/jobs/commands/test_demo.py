from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from support.inline_stages import InlineStages
from support.processes import run_here

from malmm.jobs.commands import demo
from malmm.model.demo.questions import questions
from malmm.model.demo.videos import read_truth
from malmm.pipeline.schema.errors import ConfigError


def run(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    demo.add_parser(parser.add_subparsers())
    return demo.run(parser.parse_args(["demo", *map(str, options)]))


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all stages in this process."""
    InlineStages().install(monkeypatch)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--videos", "0"], "--videos 0: from 1 to 1000"),
        (["--seconds", "2"], "--seconds 2: from 3 to 100, the length of a segment"),
        (["--seconds", "101"], "--seconds 101"),
        (["--seconds", "nan"], "--seconds nan"),
        (["--seed", "-1"], "--seed -1: 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        run(tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write videos to"):
        run(tmp_path / "file")


@pytest.mark.usefixtures("without_ray")
def test_answers_stand_next_to_the_truth(tmp_path):
    """The debug model knows nothing, so what matters is that every question is there with its own truth."""
    options = ("demo", tmp_path, "--model", "debug", "--videos", "2", "--seconds", "9", "--quiet")
    ended = run_here(*options, "--json")
    assert ended.returncode == 0, ended.stderr
    shown = json.loads(ended.stdout)
    assert "random weights" in shown["notice"]
    videos = {answer["video"] for answer in shown["answers"]}
    assert len(videos) == 2
    for name in videos:
        truth = {q.prompt: q.answer for q in questions(read_truth(tmp_path / "videos" / name))}
        said = {answer["prompt"]: answer for answer in shown["answers"] if answer["video"] == name}
        asked = {prompt.text for prompt in (demo.CAPTION, *demo.PROMPTS)}
        assert set(said) == asked & set(truth)
        for prompt, answer in said.items():
            assert answer["truth"] == truth[prompt]
            assert isinstance(answer["online"], str)
            assert isinstance(answer["replay"], str)
    drawn = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    printed = run_here(*options).stdout
    assert printed.count("      truth   ") == len(shown["answers"])
    assert f"of {len(shown['answers'])} while indexing" in printed
    assert "random weights" in printed
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()} == drawn


@pytest.mark.usefixtures("without_ray")
def test_the_model_that_comes_with_the_package_is_right_about_most(tmp_path):
    ended = run_here("demo", tmp_path, "--videos", "2", "--seconds", "30", "--quiet", "--json")
    assert ended.returncode == 0, ended.stderr
    shown = json.loads(ended.stdout)
    assert "knows only drawn shapes" in shown["notice"]
    right = [answer["online"] == answer["truth"] for answer in shown["answers"]]
    assert sum(right) / len(right) > 0.7


def test_a_model_that_cannot_be_used_is_an_error_before_anything_is_drawn(tmp_path):
    ended = run_here("demo", tmp_path / "new", "--model", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
