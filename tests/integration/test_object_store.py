"""Videos in an object store, an archive in an object store, and a store that stumbles or goes away."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from support.archive_contents import contents
from support.media import VideoSpec, make_video
from support.object_store import ObjectStore, running
from support.processes import run_cli

from malmm.pipeline.archive.reader import ArchiveReader

OPTIONS = (
    "--model",
    "debug",
    "--segment-s",
    "3",
    "--bank-length",
    "2",
    "--max-new-tokens",
    "3",
    "--quiet",
    "--json",
)
# So that no batch depends on which segment came late.
ALONE = ("--batch-segments", "1")
VIDEOS = "s3://films/videos"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    folder = tmp_path_factory.mktemp("videos")
    with running() as store:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{store.behind[0]}:{store.behind[1]}",
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106
            region_name="us-east-1",
        )
        for number in range(3):
            path = make_video(folder, VideoSpec(f"{number}.mp4", duration_s=6.0 + number))
            client.upload_file(str(path), "films", f"videos/{number}.mp4")
        client.upload_file(
            str(make_video(folder, VideoSpec("alone.mp4", duration_s=2.0))), "films", "alone/0.mp4"
        )
        client.put_object(Bucket="films", Key="videos/text.mp4", Body=b"not a video")
        client.put_object(
            Bucket="films",
            Key="videos/list.jsonl",
            Body=b'{"uri": "0.mp4", "title": "one"}\n{"uri": "1.mp4"}\n',
        )
        client.close()
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.fault = lambda method, path: "ok"
    server.forget()
    return server


def indexed(*options: str | Path) -> tuple[int, dict[str, Any]]:
    ended = run_cli("index", *options, *OPTIONS, *ALONE)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.fixture(scope="module")
def clean(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without mishap stores, on this disk."""
    place = tmp_path_factory.mktemp("clean") / "archive"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        code, _ = indexed(VIDEOS, "--archive", place)
    assert code == 3
    return contents(ArchiveReader.open(str(place)))


def test_a_store_that_stumbles_changes_no_row(store: ObjectStore, clean: dict[str, Any]) -> None:
    chance = random.Random(3)

    def stumble(method: str, path: str) -> str:
        if path.startswith("/films/videos") and method == "GET" and chance.random() < 0.2:
            return chance.choice(["500", "503", "cut", "slow"])
        return "503" if chance.random() < 0.03 else "ok"

    store.fault = stumble
    place = "s3://films/stumbling"
    code, report = indexed(VIDEOS, "--archive", place)
    store.fault = lambda method, path: "ok"
    assert code == 3
    assert [failure["kind"] for failure in report["failures"]] == ["not_a_video"]
    assert contents(ArchiveReader.open(place)) == clean
    code, report = indexed(VIDEOS, "--archive", place)
    assert (code, report["videos_unchanged"], report["videos_given_up"]) == (3, 3, 1)
    assert report["segments_indexed"] == 0


def test_a_store_that_is_away_costs_a_rerun_and_nothing_else(store: ObjectStore, tmp_path: Path) -> None:
    alone, place = "s3://films/alone", tmp_path / "archive"
    store.fault = lambda method, path: "503" if (method, path) == ("GET", "/films/alone/0.mp4") else "ok"
    code, report = indexed(alone, "--archive", place)
    assert (code, report["videos_indexed"]) == (1, 0)
    assert [failure["kind"] for failure in report["failures"]] == ["unreachable"]
    store.fault = lambda method, path: "ok"
    code, report = indexed(alone, "--archive", place)
    assert (code, report["videos_indexed"], report["failures"]) == (0, 1, [])
    assert ArchiveReader.open(str(place)).count("failures") == 0


def test_a_manifest_in_the_store(store: ObjectStore, tmp_path: Path) -> None:
    code, report = indexed(f"{VIDEOS}/list.jsonl", "--archive", tmp_path / "archive")
    assert (code, report["videos_indexed"]) == (0, 2)
    rows = ArchiveReader.open(str(tmp_path / "archive")).videos().to_pylist()
    assert {row["uri"]: row["metadata"] for row in rows} == {
        f"{VIDEOS}/0.mp4": '{"title": "one"}',
        f"{VIDEOS}/1.mp4": "",
    }
