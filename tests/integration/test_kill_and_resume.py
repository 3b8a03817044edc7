"""A run that is killed, interrupted and terminated ends, run again, with the rows of one clean run."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
from support.archive_contents import contents
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.processes import run_cli
from support.small_runs import SETTINGS, committed, start, until_more_is_committed

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig, Prompt

PEOPLE = Prompt("people", "How many people are there?")
OPTIONS = ("--prompt", f"{PEOPLE.name}={PEOPLE.text}", "--resource", "decode_workers=1")
# Long enough that there is always something left to be killed in.
LENGTHS_S = (100.0, 60.0, 130.0, 70.0)
SEGMENTS = 360


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


def test_rows_are_those_of_a_clean_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(11)
    place = tmp_path / "archive"

    # Killed while it starts, before or while the archive is made.
    session = start(folder, place, *OPTIONS)
    time.sleep(chance.uniform(4, 14))
    session.signal_group(signal.SIGKILL)
    assert session.wait() == -signal.SIGKILL
    assert session.end() == []

    # Killed between commits, or in the middle of one.
    session = start(folder, place, *OPTIONS)
    until_more_is_committed(session, place)
    time.sleep(chance.uniform(0, 0.5))
    session.signal_group(signal.SIGKILL)
    session.wait()
    assert session.end() == []
    stored = committed(place)
    assert stored > 0

    # Told to stop: what is ready is committed, and it says so.
    for number in (signal.SIGINT, signal.SIGTERM):
        session = start(folder, place, *OPTIONS)
        stored = until_more_is_committed(session, place)
        if number == signal.SIGINT:
            session.signal_group(number)
        else:
            session.process.send_signal(number)
        assert session.wait() == 130, session.errors.read_text()
        assert session.end() == []
        errors = session.errors.read_text()
        assert "Traceback" not in errors
        assert "Error" not in errors
        report = json.loads(session.output.read_text())
        assert report["interrupted"]
        assert report["exit_code"] == 130
        assert report["failures"] == []
        assert committed(place) >= stored
        stored = committed(place)

    session = start(folder, place, *OPTIONS)
    assert session.wait() == 0, session.errors.read_text()
    assert session.end() == []
    report = json.loads(session.output.read_text())
    assert report["failures"] == []

    clean = str(tmp_path / "clean")
    InlineStages().install(monkeypatch)
    config = IndexConfig(sources=(str(folder),), archive=clean, prompts=(PEOPLE,), **SETTINGS)
    assert index(config).segments_indexed == SEGMENTS
    found, expected = contents(ArchiveReader.open(str(place))), contents(ArchiveReader.open(clean))
    assert len(expected["segments"]) == SEGMENTS
    for name, rows in expected.items():
        assert found[name].keys() == rows.keys(), name
    assert found == expected


def test_a_second_run_is_told_who_writes_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    first = start(folder, place, *OPTIONS)
    until_more_is_committed(first, place)
    # Held, however long the second takes to begin.
    first.process.send_signal(signal.SIGSTOP)
    second = run_cli("index", folder, "--archive", place, "--model", "debug", "--segment-s", "1", "--fps", "4",
                     "--bank-length", "2", "--quiet")  # fmt: skip
    first.process.send_signal(signal.SIGCONT)
    assert second.returncode == 1
    assert f"is being written by process {first.process.pid} on " in second.stderr
    assert first.wait() == 0, first.errors.read_text()
    assert first.end() == []
    assert committed(place) == SEGMENTS
