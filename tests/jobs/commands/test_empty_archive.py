"""Commands over an archive without videos say what to run."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, video

from malmm.jobs.cli import main
from malmm.jobs.commands.serve import ready_lines
from malmm.pipeline.archive.partitions import fix_partitions
from malmm.pipeline.archive.run_history import RunRecord, write_run
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.partition import all_partitions
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.schema.rows import Failure
from malmm.pipeline.web.settings import ServeConfig


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create_or_open(str(tmp_path / "my archive"), RECIPE, VECTOR_SIZE)


def untouched(archive: Archive) -> str:
    return f"{archive.root} is empty: run `malmm index VIDEOS --archive {shlex.quote(archive.root)}`"


def failed(archive: Archive) -> str:
    with archive.held():
        archive.record_failures([Failure(video(0), None, "/a.mp4", "probe", "empty_file", "/a.mp4 is empty")])
    told = (
        f"{archive.root} is empty, and 1 file failed: `malmm failures --archive {shlex.quote(archive.root)}`"
    )
    return f"{told} says why"


def worked_on(archive: Archive) -> str:
    now = datetime.now(UTC)
    told = vars(Progress("probing", videos_done=0, videos_total=5))
    write_run(archive.root, RunRecord("j", ("index",), started=now, status="running", progress=told))
    told_by = f"`malmm status --archive {shlex.quote(archive.root)}` shows how far it is"
    return f"{archive.root} is empty so far, a run is at work: {told_by}"


STATES = [untouched, failed, worked_on]


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_it_says_what_to_run(
    archive: Archive, state: Callable[[Archive], str], capsys: pytest.CaptureFixture[str]
) -> None:
    hint = state(archive)

    def said(*options: str) -> tuple[int, str, str]:
        code = main([*options, "--archive", archive.root])
        return code, *capsys.readouterr()

    words = ("search", "a car", "--signals", "text")
    assert said(*words) == (0, f"Nothing found: {hint}\n", "")
    code, out, err = said(*words, "--json")
    assert (code, json.loads(out)["moments"], err) == (0, [], f"{hint}\n")
    code, out, _ = said("status")
    assert f"Hint      {hint}\n" in out
    assert json.loads(said("status", "--json")[1])["hint"] == hint
    code, out, err = said("ask", "What?")
    assert (code, out, err) == (1, "", f"error: {hint}\n")
    assert (
        ready_lines(ServeConfig(archive.root), "http://127.0.0.1:8000/")[-1] == f"Nothing to see yet: {hint}"
    )


def test_the_prompt_and_several_archives_say_it_too(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a car\n"))
    assert main(["search", "--signals", "text", "--archive", archive.root]) == 0
    assert untouched(archive) in capsys.readouterr().out
    other = Archive.create_or_open(str(tmp_path / "other"), RECIPE, VECTOR_SIZE)
    assert (
        main(["search", "a car", "--signals", "text", "--archive", archive.root, "--archive", other.root])
        == 0
    )
    assert "all 2 archives are empty: run `malmm index VIDEOS --archive " in capsys.readouterr().out


def test_of_partitions_it_names_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "films")
    fix_partitions(place, 2, RECIPE)
    parts = [Archive.create_or_open(each.below(place), RECIPE, VECTOR_SIZE) for each in all_partitions(2)]
    assert main(["status", "--archive", place]) == 0
    hint = f"all 2 archives are empty: run `malmm index VIDEOS --archive {place} --partitions 2`"
    assert f"Hint      {hint}\n" in capsys.readouterr().out
    assert main(["search", "a car", "--signals", "text", "--archive", place]) == 0
    assert capsys.readouterr().out == f"Nothing found: {hint}\n"
    failed(parts[1])
    assert main(["status", "--archive", place, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert f"1 file failed: `malmm failures --archive {place}/part-0001`" in shown["hint"]
