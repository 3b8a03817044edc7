"""A run that is killed, interrupted and terminated ends, run again, with the rows of one clean run."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import dying_run
from support.archive_contents import contents
from support.held_run import Gate
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.processes import Session, run_here
from support.small_runs import SETTINGS, committed, is_made, options, start, until_more_is_committed
from support.waiting import until

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import segment_commits
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig, Prompt
from malmm.pipeline.schema.rows import Carried

PEOPLE = Prompt("people", "How many people are there?")
OPTIONS = ("--prompt", f"{PEOPLE.name}={PEOPLE.text}", "--resource", "decode_workers=1")
LENGTHS_S = (12.0, 7.0, 10.0)
SEGMENTS = 29
# Of a whole run, as a power of ten.
MOST_CALLS = 3.8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for number, duration_s in enumerate(LENGTHS_S):
        source = ("testsrc2", "smptebars", "testsrc")[number % 3]
        spec = VideoSpec(
            f"{number}.mp4", rate="12", duration_s=duration_s, width=64, height=48, source=source
        )
        make_video(made, spec)
    return made


@pytest.fixture(scope="module")
def clean(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without mishap stores."""
    return indexed_here(folder, tmp_path_factory.mktemp("clean") / "archive")


def indexed_here(folder: Path, place: Path) -> dict[str, Any]:
    """Run to the end, in this process; gives what is stored then."""
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        config = IndexConfig(sources=(str(folder),), archive=str(place), prompts=(PEOPLE,), **SETTINGS)
        report = index(config)
    assert (report.exit_code, report.failures) == (0, [])
    return contents(ArchiveReader.open(str(place)))


def kill(session: Session) -> None:
    session.signal_group(signal.SIGKILL)
    assert session.wait() == -signal.SIGKILL
    assert session.end() == []


def check_interrupted(output: str, errors: str, place: Path, stored: int) -> None:
    """A run that was told to stop committed what was ready, and says so."""
    assert "Traceback" not in errors
    assert "Error" not in errors
    report = json.loads(output)
    assert report["interrupted"]
    assert report["exit_code"] == 130
    assert report["failures"] == []
    assert stored <= committed(place) < SEGMENTS


def test_rows_are_those_of_a_clean_run(folder: Path, clean: dict[str, Any], tmp_path: Path) -> None:
    place, gate = tmp_path / "archive", Gate(tmp_path)

    # While nothing is stored yet, a second run is told who writes. Then the first is killed with some segments
    # committed, one on its way and most still to come.
    session = start(folder, place, *OPTIONS, gate=gate, ray=False)
    until(gate.is_reached, going=session.ended)
    assert is_made(place)
    assert committed(place) == 0
    second = run_here(*options(folder, place, *OPTIONS))
    assert second.returncode == 1
    assert f"is being written by process {session.process.pid} on " in second.stderr
    gate.allow(3)
    until_more_is_committed(session, place)
    kill(session)

    # Told to stop on Ray, where Ctrl-C reaches the workers of a local cluster as well.
    gate.allow(6)
    session = start(folder, place, *OPTIONS, gate=gate)
    stored = until_more_is_committed(session, place)
    session.signal_group(signal.SIGINT)
    assert session.wait() == 130, session.errors.read_text()
    assert session.end() == []
    check_interrupted(session.output.read_text(), session.errors.read_text(), place, stored)

    # And by a scheduler, whose signal goes to one process: this one.
    stored = committed(place)
    stages = InlineStages()

    def told_to_stop(row: Carried) -> None:
        if committed(place) > stored:
            os.kill(os.getpid(), signal.SIGTERM)

    stages.mishap = told_to_stop
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_commits, "COMMIT_EVERY_S", 0.0)
        stages.install(patch)
        done = run_here(*options(folder, place, *OPTIONS))
    # It left nothing running.
    until(lambda: set(psutil.Process().children(recursive=True)) <= before, within_s=60.0)
    assert done.returncode == 130, done.stderr
    check_interrupted(done.stdout, done.stderr, place, stored + 1)

    found = indexed_here(folder, place)
    assert len(clean["segments"]) == SEGMENTS
    for name, rows in clean.items():
        assert found[name].keys() == rows.keys(), name
    assert found == clean


@pytest.mark.faults
def test_a_run_on_ray_that_is_killed_leaves_nothing_running_and_costs_no_row(
    folder: Path, clean: dict[str, Any], tmp_path: Path, fault_seed: int
) -> None:
    """Killed with its cluster, once or more often, when it has got past a random place."""
    chance, place, gate = random.Random(fault_seed), tmp_path / "archive", Gate(tmp_path)
    allowed = 0
    for _ in range(chance.randint(1, 2)):
        allowed += chance.randint(1, 3)
        gate.allow(allowed)
        session = start(folder, place, *OPTIONS, gate=gate)
        until_more_is_committed(session, place)
        kill(session)
    assert indexed_here(folder, place) == clean


@pytest.mark.faults
def test_killed_anywhere_it_ends_with_the_rows_of_a_clean_run(
    folder: Path, clean: dict[str, Any], tmp_path: Path, fault_seed: int
) -> None:
    chance, place = random.Random(fault_seed), tmp_path / "archive"
    for number in range(3):
        notes = tmp_path / str(number)
        notes.mkdir()
        calls = round(10 ** chance.uniform(2, MOST_CALLS))
        session = Session(dying_run.command(calls, *options(folder, place, *OPTIONS)), notes)
        assert session.wait() in (-signal.SIGKILL, 0), session.errors.read_text()
        assert session.end() == []
    assert indexed_here(folder, place) == clean
