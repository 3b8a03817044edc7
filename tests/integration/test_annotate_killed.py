"""An annotate run that is killed somewhere on its way and run again asks nothing twice."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from support.drawn_archive import Drawn, make_archive
from support.held_run import Gate
from support.inline_stages import InlineStages
from support.processes import Session
from support.waiting import until

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.schema.config import AnnotateConfig, Prompt

PROMPTS = tuple(Prompt(f"q{number}", f"What is there, part {number}?") for number in range(3))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Several short segments, so that there are commits to kill a run between."""
    folder = tmp_path_factory.mktemp("many")
    return make_archive(folder, videos=2, seconds=8, model="debug", segment_s=1.0, max_new_tokens=4)


def texts(place: Path) -> list[str]:
    rows = ArchiveReader.open(str(place)).annotations().to_pylist()
    return [row["annotation_id"] for row in rows if row["prompt_name"] != "caption"]


@pytest.mark.faults
def test_what_was_answered_is_not_asked_again(
    many: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault_seed: int
) -> None:
    place, gate = tmp_path / "archive", Gate(tmp_path)
    shutil.copytree(many.place, place)
    options: list[str | Path] = ["annotate", "--archive", place, "--quiet", "--max-new-tokens", "4"]
    options += ["--scope", "segment"]
    for prompt in PROMPTS:
        options += ["--prompt", f"{prompt.name}={prompt.text}"]
    gate.allow(random.Random(fault_seed).randint(1, 7))
    session = Session(gate.command(*options, ray=False), tmp_path)
    until(lambda: texts(place), going=session.ended)
    session.signal_group(signal.SIGKILL)
    session.wait()
    assert session.end() == []
    before = texts(place)
    total = len(PROMPTS) * ArchiveReader.open(str(place)).count("segments")
    assert 0 < len(before) < total

    InlineStages().install(monkeypatch)
    config = AnnotateConfig(str(place), PROMPTS, scopes=("segment",), max_new_tokens=4)
    report = annotate(config)
    assert (report.exit_code, report.failures) == (0, [])
    assert report.there == len(before)
    assert report.missing == report.texts == total - len(before)
    after = texts(place)
    assert len(after) == len(set(after)) == total
    assert set(before) <= set(after)
    assert annotate(config).missing == 0
    assert [run.status for run in read_runs(str(place), job="annotate")] == ["lost"]
