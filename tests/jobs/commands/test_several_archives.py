"""Commands over several archives: the same results, each archive named, and those left out reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.split_rows import Library

from malmm.jobs.cli import main
from malmm.pipeline.archive.partitions import fix_partitions

LIBRARY = Library(videos=4, segments=2, slots=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two archives, of which the second shares a video with the first, and a catalog with one more that is gone."""
    made = tmp_path_factory.mktemp("several")
    LIBRARY.put(str(made / "north"), (0, 1, 2))
    LIBRARY.put(str(made / "south"), (2, 3))
    (made / "all.yaml").write_text(
        "archives:\n  - north\n  - {name: sea, archive: south, media_roots: [films]}\n  - gone\n"
    )
    return made


def said(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str, str]:
    code = main(list(options))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_search_names_archives_and_says_which_is_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("search", "red car dog star river", "--signals", "text", "-k", "50")
    code, out, err = said(capsys, *asked, "--archive", str(folder / "[ns]o*th"), "--json")
    both = json.loads(out)
    assert (code, err) == (0, "")
    assert [each["name"] for each in both["archives"]] == ["north", "south"]
    assert {each["archive"] for each in both["moments"]} == {"north", "south"}
    code, out, err = said(
        capsys, *asked, "--archive", str(folder / "all.yaml"), "--page", "http://localhost:8000"
    )
    assert code == 3
    assert err.startswith("left out: gone: there is no archive at ")
    assert "&archive=sea" in out
    assert "(sea, text)" in out
    code, out, _ = said(capsys, *asked, "--archive", str(folder / "all.yaml"), "--json")
    assert code == 3
    found = json.loads(out)
    assert [each["name"] for each in found["left_out"]] == ["gone"]
    assert [each["video_id"] for each in found["moments"]] == [each["video_id"] for each in both["moments"]]


def test_export_takes_each_video_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--archive", str(folder / "north"), "--archive", str(folder / "south"))
    code, out, _ = said(capsys, "export", *given, "--format", "jsonl")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(rows) == LIBRARY.tables["annotations"].num_rows
    assert {(row["uri"], row["archive"]) for row in rows} == {
        (f"file:///videos/{number}.mp4", "north" if number < 3 else "south") for number in range(4)
    }
    code, _, err = said(
        capsys,
        "export",
        "--archive",
        str(folder / "all.yaml"),
        "--format",
        "csv",
        "--output",
        str(tmp_path / "texts.csv"),
    )
    assert code == 3
    assert "left out: gone" in err


def test_status_and_show_are_of_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--archive", str(folder / "all.yaml"))
    code, out, err = said(capsys, "status", *given)
    assert code == 3
    assert "Together  2 archives: 4 videos, 1 of them in more than one" in out
    assert "left out: gone" in err
    code, out, _ = said(capsys, "status", *given, "--json")
    assert [each["videos"]["indexed"] for each in json.loads(out)["archives"]] == [3, 2]
    code, out, _ = said(capsys, "show", *given, "--json")
    shown = json.loads(out)
    assert [video["archive"] for video in shown["videos"]] == ["north", "north", "north", "sea"]
    assert shown["rows"]["memories"] == LIBRARY.tables["memories"].num_rows
    code, out, _ = said(capsys, "show", *given, "3.mp4")
    assert ", in sea" in out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must hold a list"),
        ("archives: []", "must hold a list"),
        ("archives: [a]\nmore: 1", "nothing else"),
        ("archives: [{name: a}]", "is not an archive"),
        ("archives: [{archive: a, root: b}]", "has no 'root'"),
        ("archives: [{archive: a, name: 1}]", "is not a text"),
        ("archives: [{archive: a, media_roots: b}]", "must be a list"),
        ("archives: [{archive: a, name: x}, {archive: b, name: x}]", "are called 'x'"),
        ("archives: [{", "is not a catalog"),
        ("archives: ['*/none']", "no archive matches"),
    ],
)
def test_a_wrong_catalog_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    (tmp_path / "all.yaml").write_text(text)
    code, out, err = said(capsys, "status", "--archive", str(tmp_path / "all.yaml"))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert problem in err
    assert err.count("\n") == 1


def test_partitions_are_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "films"
    fix_partitions(str(place), 3, LIBRARY.recipe)
    for index, videos in enumerate([(0, 1), (2,), (3,)]):
        LIBRARY.put(str(place / f"part-000{index}"), videos)
    code, out, err = said(capsys, "status", "--archive", str(place))
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == f"Archive   {place}, 3 partitions, {LIBRARY.recipe.model}"
    assert lines[1].startswith("Videos    4 indexed")
    assert [line.split(",")[0] for line in lines[-3:]] == [
        "part-0000 2 indexed",
        "part-0001 1 indexed",
        "part-0002 1 indexed",
    ]
    code, out, _ = said(capsys, "status", "--archive", str(place / "catalog.yaml"), "--json")
    shown = json.loads(out)
    assert (shown["number"], shown["videos"]["indexed"], shown["left_out"]) == (3, 4, [])
    assert shown["rows"]["memories"] == LIBRARY.tables["memories"].num_rows
    assert [(each["name"], each["videos"]["indexed"]) for each in shown["partitions"]] == [
        ("part-0000", 2),
        ("part-0001", 1),
        ("part-0002", 1),
    ]
    assert shown["bytes"] == sum(
        table["bytes"] for each in shown["partitions"] for table in each["storage"].values()
    )
    # Whatever takes several archives takes the address of all partitions.
    asked = ("search", "red car dog star river", "--signals", "text", "-k", "50", "--json")
    code, out, _ = said(capsys, *asked, "--archive", str(place))
    assert (code, {each["archive"] for each in json.loads(out)["moments"]}) == (
        0,
        {"part-0000", "part-0001", "part-0002"},
    )
    code, out, _ = said(capsys, "export", "--archive", str(place), "--format", "jsonl")
    assert (code, len(out.splitlines())) == (0, LIBRARY.tables["annotations"].num_rows)
    code, _, err = said(capsys, "runs", "--archive", str(place))
    assert code == 1
    assert "holds several, which catalog.yaml lists: name one of them" in err
    shutil.rmtree(place / "part-0001")
    code, out, err = said(capsys, "status", "--archive", str(place))
    assert code == 3
    assert "left out: part-0001" in err
    assert out.splitlines()[1].startswith("Videos    3 indexed")
