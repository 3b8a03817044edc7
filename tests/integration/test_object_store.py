"""Videos and an archive in an object store that stumbles or goes away. Workers use one in test_index_end_to_end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.object_store import Fault, ObjectStore, reached, running

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig

# So that no batch depends on which segment came late.
SETTINGS: dict[str, Any] = {
    "model": "debug",
    "segment_s": 3.0,
    "bank_length": 2,
    "max_new_tokens": 3,
    "batch_segments": 1,
}
VIDEOS = "s3://films/videos"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder = tmp_path_factory.mktemp("videos")
    with running() as store:
        for number in range(3):
            path = make_video(folder, VideoSpec(f"{number}.mp4", duration_s=6.0 + number))
            store.put(f"videos/{number}.mp4", path)
        store.put("alone/0.mp4", make_video(folder, VideoSpec("alone.mp4", duration_s=2.0)))
        store.put("videos/text.mp4", b"not a video")
        store.put("videos/list.jsonl", b'{"uri": "0.mp4", "title": "one"}\n{"uri": "1.mp4"}\n')
        yield store


@pytest.fixture
def store(server: ObjectStore) -> Iterator[ObjectStore]:
    """The store, well again, with runs in this process."""
    with reached(server), pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        yield server


def indexed(source: str, place: str | Path) -> IndexReport:
    return index(IndexConfig((source,), str(place), **SETTINGS))


@pytest.mark.faults
def test_a_store_that_stumbles_changes_no_row(store: ObjectStore, tmp_path: Path, fault_seed: int) -> None:
    assert indexed(VIDEOS, tmp_path / "clean").exit_code == 3
    store.forget()
    store.fault = stumbling(random.Random(fault_seed))
    place = f"s3://films/stumbling-{fault_seed}"
    report = indexed(VIDEOS, place)
    store.fault = lambda method, path: "ok"
    assert {fault for _, _, fault in store.requests} > {"ok"}
    assert report.exit_code == 3
    assert [failure.kind for failure in report.failures] == ["not_a_video"]
    clean = contents(ArchiveReader.open(str(tmp_path / "clean")))
    assert contents(ArchiveReader.open(place)) == clean


def stumbling(chance: random.Random) -> Fault:
    """Faults at random, but for one object never twice running: what is tried again comes through.

    How many requests there are depends on the time that things take, and so would how many fail in a row.
    """
    last: dict[tuple[str, str], bool] = {}
    lock = threading.Lock()

    def stumble(method: str, path: str) -> str:
        key = (method, path.partition("?")[0])
        with lock:
            of_video = path.startswith("/films/videos") and method == "GET"
            last[key] = not last.get(key) and chance.random() < (0.2 if of_video else 0.03)
            if not last[key]:
                return "ok"
            return chance.choice(["500", "503", "cut", "slow"]) if of_video else "503"

    return stumble


def test_a_store_that_is_away_costs_a_rerun_and_nothing_else(store: ObjectStore, tmp_path: Path) -> None:
    alone, place = "s3://films/alone", tmp_path / "archive"
    store.fault = lambda method, path: "503" if (method, path) == ("GET", "/films/alone/0.mp4") else "ok"
    report = indexed(alone, place)
    assert (report.exit_code, report.videos_indexed) == (1, 0)
    assert [failure.kind for failure in report.failures] == ["unreachable"]
    store.fault = lambda method, path: "ok"
    report = indexed(alone, place)
    assert (report.exit_code, report.videos_indexed, report.failures) == (0, 1, [])
    assert ArchiveReader.open(str(place)).count("failures") == 0


def test_a_manifest_in_the_store(store: ObjectStore, tmp_path: Path) -> None:
    report = indexed(f"{VIDEOS}/list.jsonl", tmp_path / "archive")
    assert (report.exit_code, report.videos_indexed) == (0, 2)
    rows = ArchiveReader.open(str(tmp_path / "archive")).videos().to_pylist()
    assert {row["uri"]: row["metadata"] for row in rows} == {
        f"{VIDEOS}/0.mp4": '{"title": "one"}',
        f"{VIDEOS}/1.mp4": "",
    }
