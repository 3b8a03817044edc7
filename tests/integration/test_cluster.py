"""A run on a cluster whose workers die, or a whole node, ends with the rows of one clean run."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents
from support.cluster import Cluster, running
from support.held_run import Gate
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.processes import Session
from support.small_runs import SETTINGS, start, until_more_is_committed

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig

SOURCES = ("testsrc2", "smptebars", "testsrc")
VIDEO_S = 6
SEGMENTS = VIDEO_S * len(SOURCES)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running(nodes=2, cpus=2) as started:
        yield started


@pytest.fixture
def _environment(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``malmm`` use the cluster."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for source in SOURCES:
        make_video(
            made,
            VideoSpec(f"{source}.mp4", rate="12", duration_s=VIDEO_S, width=64, height=48, source=source),
        )
    return made


@pytest.fixture(scope="module")
def clean(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without mishap stores."""
    place = str(tmp_path_factory.mktemp("clean") / "archive")
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        assert index(IndexConfig((str(folder),), place, **SETTINGS)).segments_indexed == SEGMENTS
    return contents(ArchiveReader.open(place))


def report_of(session: Session) -> dict[str, Any]:
    """What a run says that goes on by itself to its end."""
    code = session.wait()
    assert session.end() == []
    errors = session.errors.read_text()
    assert "Traceback" not in errors
    assert code == 0, errors
    report: dict[str, Any] = json.loads(session.output.read_text())
    return report


@pytest.mark.faults
@pytest.mark.usefixtures("_environment")
def test_workers_that_are_killed_again_and_again_cost_no_row(
    cluster: Cluster, folder: Path, clean: dict[str, Any], tmp_path: Path, fault_seed: int
) -> None:
    """Whenever more segments are stored, one that decodes dies, or once the one with the models."""
    place, gate = tmp_path / "archive", Gate(tmp_path)
    titles = ["decode_segments", "decode_segments", "ModelHost"]
    random.Random(fault_seed).shuffle(titles)
    gate.allow(1)
    session, stored = start(folder, place, gate=gate), 0
    for allowed, title in enumerate(titles, 2):
        stored = until_more_is_committed(session, place, before=stored)
        os.kill(cluster.worker(title), signal.SIGKILL)
        gate.allow(allowed)
    assert until_more_is_committed(session, place, before=stored) < SEGMENTS
    gate.open()
    report = report_of(session)
    assert (report["segments_indexed"], report["failures"]) == (SEGMENTS, [])
    assert contents(ArchiveReader.open(str(place))) == clean


@pytest.mark.usefixtures("_environment")
def test_a_run_whose_queue_is_killed_says_so_and_the_same_command_finishes_it(
    cluster: Cluster, folder: Path, clean: dict[str, Any], tmp_path: Path
) -> None:
    """The actor that hands out files and models is gone: what was on its way is made again, and is no failure."""
    place, gate = tmp_path / "archive", Gate(tmp_path)
    gate.allow(2)
    session = start(folder, place, gate=gate)
    until_more_is_committed(session, place)
    os.kill(cluster.worker("Held"), signal.SIGKILL)
    gate.open()
    assert session.wait() == 1
    assert session.end() == []
    errors = session.errors.read_text()
    assert "Traceback" not in errors
    [said] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "run again to go on" in said
    archive = ArchiveReader.open(str(place))
    assert archive.failures().num_rows == 0
    stored = contents(archive)
    assert 0 < len(stored["segments"]) < SEGMENTS
    assert stored["segments"].items() <= clean["segments"].items()
    report = report_of(start(folder, place))
    assert (report["segments_resumed"], report["failures"]) == (len(stored["segments"]), [])
    assert contents(archive) == clean


@pytest.mark.usefixtures("_environment")
def test_a_worker_and_then_a_node_that_are_killed_cost_no_row(
    cluster: Cluster, folder: Path, clean: dict[str, Any], tmp_path: Path
) -> None:
    place, gate = tmp_path / "archive", Gate(tmp_path)
    gate.allow(2)
    session = start(folder, place, gate=gate)
    until_more_is_committed(session, place)
    os.kill(cluster.worker("decode_segments"), signal.SIGKILL)
    cluster.kill_node(cluster.node_of(cluster.worker("ModelHost")))
    gate.open()
    report = report_of(session)
    assert (report["segments_indexed"], report["failures"]) == (SEGMENTS, [])
    assert contents(ArchiveReader.open(str(place))) == clean
