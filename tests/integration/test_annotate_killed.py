"""An annotate run that is killed half-way and run again asks nothing twice."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.drawn_archive import Drawn, make_archive
from support.processes import Session

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.schema.config import AnnotateConfig, Prompt

PROMPTS = tuple(Prompt(f"q{number}", f"What is there, part {number}?") for number in range(12))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Many short segments, so that there are commits to kill a run between."""
    folder = tmp_path_factory.mktemp("many")
    return make_archive(folder, videos=2, seconds=40, model="debug", segment_s=1.0, max_new_tokens=4)


def texts(place: Path) -> list[str]:
    rows = ArchiveReader.open(str(place)).annotations().to_pylist()
    return [row["annotation_id"] for row in rows if row["prompt_name"] != "caption"]


def test_what_was_answered_is_not_asked_again(many: Drawn, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    shutil.copytree(many.place, place)
    options: list[str | Path] = ["annotate", "--archive", place, "--json", "--quiet", "--batch-segments", "1"]
    options += ["--max-new-tokens", "4", "--scope", "segment"]
    for prompt in PROMPTS:
        options += ["--prompt", f"{prompt.name}={prompt.text}"]
    notes = [tmp_path / "first", tmp_path / "second"]
    for folder in notes:
        folder.mkdir()
    session = Session(options, notes[0])
    deadline = time.monotonic() + 200
    while session.alive and time.monotonic() < deadline and not texts(place):
        time.sleep(0.1)
    session.signal_group(signal.SIGKILL)
    session.wait()
    assert session.end() == []
    before = texts(place)
    total = len(PROMPTS) * ArchiveReader.open(str(place)).count("segments")
    assert len(before) > 0

    session = Session(options, notes[1])
    assert session.wait() == 0, session.errors.read_text()
    assert session.end() == []
    report = json.loads(session.output.read_text())
    assert report["there"] == len(before)
    assert report["missing"] == report["texts"] == total - len(before)
    after = texts(place)
    assert len(after) == len(set(after)) == total
    assert set(before) <= set(after)
    assert annotate(AnnotateConfig(str(place), PROMPTS, scopes=("segment",))).missing == 0
    assert [run.status for run in read_runs(str(place), job="annotate")] == ["done", "lost"]
