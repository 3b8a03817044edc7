from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given
from support.archive_rows import RECIPE, VECTOR_SIZE, annotation, annotation_table, rows, segment, video_table

from malmm.jobs.commands import show
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.tables import VIDEOS

STEERING = "/videos/steering\x1b[2J.mp4"


def video_row(number: int, uri: str) -> dict[str, Any]:
    return video_table(number).to_pylist()[0] | {"uri": uri}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Two finished videos, one begun, one that failed."""
    made = Archive.create_or_open(str(tmp_path_factory.mktemp("archive")), RECIPE, VECTOR_SIZE)
    for of_video in range(3):
        made.commit(write_rows(made.uri, rows(0, 1, of_video=of_video)))
    finished = [video_row(0, "/videos/talk.mp4"), video_row(1, STEERING)]
    made.put_videos(pa.Table.from_pylist(finished, schema=VIDEOS))
    whole = annotation(None, subject="whole", mode="replay")
    made.add_annotations(annotation_table(whole | {"text": "a whole\nred \x1b[31msquare", "end_s": 300.0}))
    labelled = annotation(segment(0), mode="replay") | {
        "prompt_name": "place",
        "text": "indoors",
        "score": 0.75,
    }
    made.add_annotations(annotation_table(labelled))
    broken = "/videos/broken.mp4"
    made.record_failures(
        [Failure(video_id(broken), None, broken, "probe", "empty_file", f"{broken} is empty (0 bytes)")]
    )
    return made


def run(archive: Archive | str, *options: str) -> int:
    parser = argparse.ArgumentParser()
    show.add_parser(parser.add_subparsers())
    place = archive if isinstance(archive, str) else archive.uri
    return show.run(parser.parse_args(["show", "--archive", place, *options]))


def shown(capsys: pytest.CaptureFixture[str], archive: Archive, *options: str) -> str:
    assert run(archive, *options) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_an_archive_at_a_glance(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, archive)
    assert archive.uri in said
    assert "2 videos (13:20), 6 segments, 18 memory slots, 8 texts" in said
    assert "1 more videos are begun" in said
    assert "/videos/talk.mp4" in said
    assert "a whole red" in said
    assert "Failed: 1\n  /videos/broken.mp4 is empty (0 bytes)\n" in said


def test_an_archive_as_json(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(shown(capsys, archive, "--json"))
    assert content["rows"] == {"videos": 2, "segments": 6, "memories": 18, "annotations": 8, "failures": 1}
    assert content["recipe"]["recipe_id"] == RECIPE.recipe_id
    assert content["unfinished_videos"] == 1
    [talk] = [video for video in content["videos"] if video["uri"] == "/videos/talk.mp4"]
    assert (talk["segments"], talk["frames"]) == (2, 200)
    assert talk["caption"] == "a whole\nred \x1b[31msquare"


def test_a_video_on_its_time_line(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, archive, "talk.mp4")
    assert said.startswith("/videos/talk.mp4\n  6:40 from 0:00, 64x48, 25 frames a second, h264, id ")
    assert "Segment 0  0:00 to 1:40, 100 frames in 3 slots" in said
    assert "Segment 1  1:40 to 3:20" in said
    assert "place: indoors (0.75)" in said
    assert "caption: a red square" in said
    assert "slots hold 1 to 3 frames" in said


def test_a_video_as_json(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(shown(capsys, archive, "talk.mp4", "--json"))
    assert content["video"]["uri"] == "/videos/talk.mp4"
    assert [text["mode"] for text in content["annotations"]] == ["replay"]
    assert [part["index"] for part in content["segments"]] == [0, 1]
    for part in content["segments"]:
        assert [slot["slot"] for slot in part["slots"]] == [0, 1, 2]
    assert {text["prompt_name"] for text in content["segments"][0]["annotations"]} == {"caption", "place"}


@pytest.mark.parametrize("name", ["talk.mp4", "/videos/talk.mp4", "/videos/../videos/talk.mp4", "id"])
def test_a_video_is_found_by_any_of_its_names(
    archive: Archive, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name == "id":
        name = video_table(0).to_pylist()[0]["video_id"]
    assert shown(capsys, archive, name).startswith("/videos/talk.mp4\n")


def test_a_video_that_is_not_there_is_an_error(archive: Archive) -> None:
    with pytest.raises(ConfigError, match=r"holds no video 'tale\.mp4'"):
        run(archive, "tale.mp4")


def test_a_name_of_several_videos_is_an_error_that_lists_them(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    made.put_videos(
        pa.Table.from_pylist([video_row(0, "/a/talk.mp4"), video_row(1, "/b/talk.mp4")], schema=VIDEOS)
    )
    with pytest.raises(ConfigError, match=r"2 videos are called 'talk\.mp4'") as caught:
        run(made, "talk.mp4")
    assert all(row["video_id"] in str(caught.value) for row in made.videos().to_pylist())


def test_no_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="there is no archive at"):
        run(str(tmp_path / "nowhere"))


def test_an_empty_archive_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    assert "0 videos (0:00), 0 segments" in shown(capsys, made)


@pytest.mark.parametrize("options", [(), ("--json",), ("steering\x1b[2J.mp4",), ("talk.mp4",)])
def test_names_and_texts_do_not_steer_the_terminal(
    archive: Archive, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    assert all(c.isprintable() or c == "\n" for c in shown(capsys, archive, *options))


spans = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


@given(spans, st.floats(-1000, 1000), st.integers(20, 120))
def test_a_time_line_of_spans_that_tile_is_full(lengths: list[float], start_s: float, width: int) -> None:
    bounds = [start_s]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    line = show.timeline([[pair] for pair in itertools.pairwise(bounds)], bounds[0], bounds[-1], width)
    assert len(line) == width
    assert " " not in line


@given(
    st.lists(st.lists(st.tuples(st.floats(-10, 200), st.floats(-10, 200)), max_size=3), max_size=5),
    st.integers(20, 50),
)
def test_a_time_line_is_as_wide_as_told_whatever_the_spans(
    given: list[list[tuple[float, float]]], width: int
) -> None:
    assert len(show.timeline(given, 0.0, 100.0, width)) == width


def test_neighbours_on_the_time_line_differ() -> None:
    assert show.timeline([[(0, 5)], [(5, 10)]], 0, 10, 10) == "█████░░░░░"


def test_a_slot_of_several_spans_has_one_shade_on_the_time_line() -> None:
    assert show.timeline([[(0, 2), (6, 8)], [(2, 6)], [(8, 10)]], 0, 10, 10) == "██░░░░██▓▓"
