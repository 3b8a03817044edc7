from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from malmm.jobs.commands import demo_videos
from malmm.model.demo.videos import read_truth
from malmm.model.demo.world import COLOURS, HEIGHT, WIDTH
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.schema.errors import ConfigError


def run(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    demo_videos.add_parser(parser.add_subparsers())
    return demo_videos.run(parser.parse_args(["demo-videos", *map(str, options)]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    assert run(folder, "--count", "2", "--minutes", "0.25", "--seed", "7") == 0
    return folder


def test_files_are_named_by_seed_and_number(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "drawn-7-0.mp4",
        "drawn-7-0.mp4.json",
        "drawn-7-1.mp4",
        "drawn-7-1.mp4.json",
    ]


def pictures(path: Path) -> np.ndarray:
    return decode_span(SpanRequest(str(path), 0.0, 15.0, 2.0, 64, is_last=True)).frames.astype(int)


def test_the_same_seed_draws_the_same_videos_and_another_does_not(folder: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "--minutes", "0.25", "--seed", "7") == 0
    first, second = "drawn-7-0.mp4", "drawn-7-1.mp4"
    assert (tmp_path / f"{first}.json").read_bytes() == (folder / f"{first}.json").read_bytes()
    # What is drawn is the same to the bit; how x264 compresses it is not, once in some thirty times.
    again, other = pictures(tmp_path / first), pictures(folder / second)
    assert np.abs(again - pictures(folder / first)).mean() < 1
    assert np.abs(again - other).mean() > 10
    truths = {path.read_text().replace("-1.mp4", "-0.mp4") for path in folder.glob("*.json")}
    assert len(truths) == 2


def test_scenes_tile_the_video(folder: Path) -> None:
    for path in folder.glob("*.json"):
        truth = json.loads(path.read_text())
        info = probe(str(folder / truth["video"]))
        assert truth["seconds"] == 15.0
        assert info.duration_s == pytest.approx(15.0, abs=0.1)
        scenes = truth["scenes"]
        assert scenes[0]["start_s"] == 0.0
        assert scenes[-1]["end_s"] == 15.0
        for before, after in itertools.pairwise(scenes):
            assert before["end_s"] == after["start_s"]


def test_a_video_shows_what_is_written(folder: Path) -> None:
    """Every object's colour is in its half of the picture, in every sampled frame."""
    for path in folder.glob("*.mp4"):
        scenes = read_truth(path)
        span = decode_span(SpanRequest(str(path), 0.0, 15.0, 1.0, 120, is_last=True))
        assert span.problem is None
        for frame, time in zip(span.frames, span.timestamps_s, strict=True):
            scene = next(s for s in scenes if s.start_s <= time < s.end_s)
            for place, thing in enumerate(scene.objects):
                width = 120 // len(scene.objects)
                half = frame[:, place * width : (place + 1) * width].astype(int)
                away = np.abs(half - np.array(COLOURS[thing.colour])).max(axis=-1)
                assert (away < 60).sum() > 30, (path.name, time, thing)
            assert all(0 <= thing.x <= WIDTH and 0 <= thing.y <= HEIGHT for thing in scene.objects)


def test_json_lists_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--minutes", "0.05", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [str(tmp_path / "drawn-0-0.mp4")]


def test_sizes_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--minutes", "0.05") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/drawn-0-0.mp4  ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "0"], "--count 0"),
        (["--minutes", "0"], "--minutes 0"),
        (["--minutes", "nan"], "--minutes nan"),
        (["--minutes", "1e9"], "--minutes"),
        (["--seed", "-1"], "--seed -1"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write videos to"):
        run(tmp_path / "file")
