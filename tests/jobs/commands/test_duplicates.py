"""``malmm duplicates`` as its user sees it: text, JSON, Parquet, and lists to leave out."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.archive_rows import RECIPE
from support.planted_films import FRAME_S, archive_of, film, sampled

from malmm.jobs.cli import main
from malmm.pipeline.duplicates.copies import KEEPS

SHOWN = film(1, 300)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """The command line answers to SIGTERM in its own way."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    clip = film(5, 40)
    again = [film(6, 60), clip, film(7, 90), clip]
    videos = {
        "/videos/original\x1b[2J.mp4": sampled(SHOWN, seed=1),
        "/videos/cut.mp4": sampled(SHOWN[int(100 / FRAME_S) : int(220 / FRAME_S)], seed=2),
        "/videos/again.mp4": sampled(np.concatenate(again), seed=3),
    }
    return archive_of(tmp_path_factory.mktemp("films") / "archive", videos).root


def run(place: str, *options: str) -> int:
    return main(["duplicates", "--archive", place, "--quiet", *options])


def test_groups_are_shown_with_their_spans(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "3 videos, 130 memory slots" in said.out
    assert (
        "Copies: 1\n   1  /videos/cut.mp4  all of it, 2:00\n      /videos/original\\x1b[2J.mp4  1:"
        in said.out
    )
    assert "Comes again in the same video: 1\n   1  /videos/again.mp4  " in said.out


def test_the_report_as_json(place: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(place, "--json", "--output", str(tmp_path / "report.json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((tmp_path / "report.json").read_text())
    [group] = shown["groups"]
    assert [passage["uri"] for passage in group["passages"]] == [
        "/videos/cut.mp4",
        "/videos/original\x1b[2J.mp4",
    ]
    [found] = group["runs"]
    assert found["rate"] == pytest.approx(1, abs=0.05)
    assert found["first"]["start_s"] == pytest.approx(0, abs=5)
    assert found["second"]["start_s"] == pytest.approx(100, abs=5)
    [repeat] = shown["repeats"]
    assert {passage["uri"] for passage in repeat["passages"]} == {"/videos/again.mp4"}


def test_the_report_as_parquet(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "--output", str(tmp_path / "report.parquet")) == 0
    rows = pq.read_table(tmp_path / "report.parquet").to_pylist()
    assert [row["kind"] for row in rows] == ["copy", "copy", "repeat", "repeat"]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_what_to_leave_out_is_listed(
    place: str, tmp_path: Path, keep: str, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"copies.{ending}"
    assert run(place, "--keep", keep, "--leave-out", str(path)) == 0
    if ending == "parquet":
        rows = pq.read_table(path).to_pylist()
    elif ending == "csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    [row] = rows
    # The original was indexed first, and is the longest.
    assert (row["uri"], row["copy_of"]) == ("/videos/cut.mp4", "/videos/original\x1b[2J.mp4")
    assert str(row["whole"]) == "True"
    assert float(row["end_s"]) == pytest.approx(120, abs=5)


def test_repeats_are_left_out_only_if_told(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "copies.jsonl"
    assert run(place, "--keep", "first", "--leave-out", str(path), "--repeats") == 0
    left = {row["uri"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert left.keys() == {"/videos/cut.mp4", "/videos/again.mp4"}
    again = left["/videos/again.mp4"]
    assert not again["whole"]
    assert (again["start_s"], again["end_s"]) == pytest.approx((190, 230), abs=5)


WRONG = [
    (("--keep", "first"), "--keep and --leave-out go together"),
    (("--leave-out", "x.jsonl"), "--keep and --leave-out go together"),
    (("--repeats",), "--repeats is about what to leave out"),
    (("--keep", "first", "--leave-out", "x.txt"), "name a file that ends in .jsonl, .csv or .parquet"),
    (("--output", "report.txt"), "name a file that ends in .json or .parquet"),
    (("--output", "nowhere/report.json"), "there is no folder nowhere"),
    (("--least-s", "0"), "--least-s 0: above 0 seconds"),
    (("--least-s", "nan"), "--least-s nan: above 0 seconds"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=lambda value: " ".join(value))
def test_wrong_usage_is_one_sentence_before_anything_is_read(
    options: tuple[str, ...], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tmp_path / "no archive"), *options) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_a_place_without_an_archive_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tmp_path / "nowhere")) == 1
    assert "there is no archive at" in capsys.readouterr().err


def test_copies_are_found_across_archives_and_those_left_out_are_named(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = {"/videos/again.mp4": sampled(SHOWN, seed=9), "/videos/new.mp4": sampled(film(8, 60), seed=4)}
    north = archive_of(tmp_path / "north", again).root
    other = replace(RECIPE, retrieval_model="siglip", retrieval_fingerprint="cccc")
    archive_of(tmp_path / "other", {"/videos/other.mp4": sampled(SHOWN, seed=5)}, recipe=other)
    catalog = tmp_path / "all.json"
    catalog.write_text(
        json.dumps(
            {"archives": [{"archive": place, "name": "first"}, north, str(tmp_path / "other"), "gone"]}
        )
    )
    # `/videos/again.mp4` is read from the first archive that has it, where it is another film.
    assert run(str(catalog)) == 3
    said = capsys.readouterr()
    assert "left out: other: it has another retrieval model than first" in said.err
    assert "left out: gone: there is no archive at" in said.err
    assert "4 videos, 142 memory slots" in said.out
    assert "/videos/cut.mp4  all of it, 2:00  (first)" in said.out
    more = archive_of(tmp_path / "south", {"/videos/reupload.mp4": sampled(SHOWN, seed=7)}).root
    listed = tmp_path / "copies.jsonl"
    options = ("--keep", "first", "--leave-out", str(listed), "--json")
    assert run(place, "--archive", north, "--archive", more, *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["archives"] == [place, north, more]
    [group] = report["groups"]
    assert {passage["archive"] for passage in group["passages"]} == {place, more}
    assert {json.loads(line)["uri"] for line in listed.read_text().splitlines()} == {
        "/videos/cut.mp4",
        "/videos/reupload.mp4",
    }
