"""Videos in an object store, an archive in an object store, and a store that stumbles or goes away."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from support.archive_contents import contents
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.object_store import Fault, ObjectStore, running
from support.processes import end_decoding_process, run_cli

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
OPTIONS = [text for name, value in SETTINGS.items() for text in (f"--{name.replace('_', '-')}", str(value))]
VIDEOS = "s3://films/videos"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder = tmp_path_factory.mktemp("videos")
    with running() as store:
        buckets = boto3.client(
            "s3",
            endpoint_url=f"http://{store.behind[0]}:{store.behind[1]}",
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106
            region_name="us-east-1",
        )
        for number in range(3):
            path = make_video(folder, VideoSpec(f"{number}.mp4", duration_s=6.0 + number))
            buckets.upload_file(str(path), "films", f"videos/{number}.mp4")
        buckets.upload_file(
            str(make_video(folder, VideoSpec("alone.mp4", duration_s=2.0))), "films", "alone/0.mp4"
        )
        buckets.put_object(Bucket="films", Key="videos/text.mp4", Body=b"not a video")
        buckets.put_object(
            Bucket="films",
            Key="videos/list.jsonl",
            Body=b'{"uri": "0.mp4", "title": "one"}\n{"uri": "1.mp4"}\n',
        )
        buckets.close()
        yield store


@pytest.fixture
def store(server: ObjectStore) -> Iterator[ObjectStore]:
    """The store, well again, with runs in this process."""
    with reached(server):
        yield server


@contextmanager
def reached(server: ObjectStore) -> Iterator[None]:
    """Have this process, and the one that decodes for it, find the store."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        end_decoding_process()
        InlineStages().install(patch)
        server.fault = lambda method, path: "ok"
        server.forget()
        yield
    end_decoding_process()


def indexed(source: str, place: str | Path) -> IndexReport:
    return index(IndexConfig((source,), str(place), **SETTINGS))


@pytest.fixture(scope="module")
def clean(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without mishap stores, on this disk."""
    place = tmp_path_factory.mktemp("clean") / "archive"
    with reached(server):
        assert indexed(VIDEOS, place).exit_code == 3
        return contents(ArchiveReader.open(str(place)))


def test_workers_read_from_the_store_and_write_to_it(store: ObjectStore, clean: dict[str, Any]) -> None:
    place = "s3://films/by-workers"
    ended = run_cli("index", VIDEOS, "--archive", place, *OPTIONS, "--quiet", "--json")
    assert ended.returncode == 3, ended.stderr
    assert [failure["kind"] for failure in json.loads(ended.stdout)["failures"]] == ["not_a_video"]
    assert contents(ArchiveReader.open(place)) == clean
    again = indexed(VIDEOS, place)
    assert (again.exit_code, again.videos_unchanged, again.videos_given_up) == (3, 3, 1)
    assert again.segments_indexed == 0


@pytest.mark.faults
def test_a_store_that_stumbles_changes_no_row(
    store: ObjectStore, clean: dict[str, Any], fault_seed: int
) -> None:
    store.fault = stumbling(random.Random(fault_seed))
    place = f"s3://films/stumbling-{fault_seed}"
    report = indexed(VIDEOS, place)
    store.fault = lambda method, path: "ok"
    assert {fault for _, _, fault in store.requests} > {"ok"}
    assert report.exit_code == 3
    assert [failure.kind for failure in report.failures] == ["not_a_video"]
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
