"""What could not be indexed is listed, and tried again when asked for."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video

from malmm.jobs.commands import failures
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig, Prompt

PEOPLE = Prompt("people", "How many people are there?")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video and a file that is not a video."""
    made = tmp_path / "videos"
    made.mkdir()
    make_video(made, VideoSpec("good.mp4", duration_s=3.0))
    (made / "bad.mp4").write_text("not a video")
    return made


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An archive of the folder, made with options that are not the defaults."""
    InlineStages().install(monkeypatch)
    made = str(tmp_path / "archive")
    config = IndexConfig(
        (str(folder),), made, model="debug", fps=2.0, segment_s=2.0, bank_length=3, prompts=(PEOPLE,)
    )
    assert index(config).exit_code == 3
    return made


def run(place: str, *options: str) -> int:
    parser = argparse.ArgumentParser()
    failures.add_parser(parser.add_subparsers())
    return failures.run(parser.parse_args(["failures", "--archive", place, *options]))


def test_failures_are_listed_with_their_reason(
    place: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(place) == 3
    said = capsys.readouterr().out
    assert str(folder / "bad.mp4") in said
    assert "not_a_video at probe, once, last 20" in said
    assert "1 failures of 1 videos" in said


def test_failures_as_json(place: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "--json") == 3
    [row] = json.loads(capsys.readouterr().out)["failures"]
    assert (row["uri"], row["kind"], row["attempts"]) == (str(folder / "bad.mp4"), "not_a_video", 1)


def test_retrying_what_still_fails_counts_up(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "--retry", "--quiet") == 1
    capsys.readouterr()
    assert run(place) == 3
    assert "2 times" in capsys.readouterr().out


def test_retrying_what_was_mended_clears_it_and_asks_what_the_others_were_asked(
    place: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "good.mp4", folder / "bad.mp4")
    assert run(place, "--retry", "--quiet") == 0
    capsys.readouterr()
    archive = ArchiveReader.open(place)
    texts = archive.annotations().to_pylist()
    assert {row["prompt_name"] for row in texts} == {"caption", "people"}
    assert archive.count("annotations") == 2 * (archive.count("segments") + 2)
    assert run(place) == 0
    assert capsys.readouterr().out == "Nothing failed.\n"
