"""A span of a video in an object store costs about its own bytes, and a store that stumbles costs no frame."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest
from support.media import VideoSpec, make_video, run_ffmpeg
from support.object_store import ObjectStore, running

from malmm.operators.media import ranges
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.probe import probe
from malmm.operators.media.ranges import open_ranges
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.media.sampling import plan_spans
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import Patience

# Some hundred times what a request asks for at least, with pictures in the order of display and in another.
PLAIN = VideoSpec("plain.mp4", rate="12", duration_s=160, width=320, height=240, gop=24)
REORDERED = replace(PLAIN, name="behind.mp4", b_frames=2)
KINDS = ("index behind", "index in front", "with sound", "matroska", "stream")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    plain, reordered = make_video(folder, PLAIN), make_video(folder, REORDERED)

    def held(video: Path, name: str, *options: str) -> Path:
        """The same pictures in another container."""
        run_ffmpeg("-i", video, *options, "-c:v", "copy", folder / name)
        return folder / name

    made = (
        reordered,
        held(plain, "front.mp4", "-movflags", "faststart"),
        held(plain, "sound.mp4", "-f", "lavfi", "-i", f"sine=d={PLAIN.duration_s}"),
        held(reordered, "video.mkv"),
        held(plain, "video.ts"),
    )
    return dict(zip(KINDS, made, strict=True))


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with running() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backends, "PATIENCE", Patience(first_pause_s=0.01, longest_pause_s=0.1))
    server.fault = lambda method, path: "ok"
    server.forget()
    fsspec.filesystem("s3").clear_instance_cache()
    return server


def put(store: ObjectStore, path: Path) -> str:
    client = boto3.client("s3", endpoint_url=f"http://{store.behind[0]}:{store.behind[1]}")
    client.upload_file(str(path), "films", path.name)
    client.close()
    return f"s3://films/{path.name}"


@pytest.mark.parametrize("name", KINDS)
def test_all_segments_together_cost_little_more_than_the_file(
    name: str, files: dict[str, Path], store: ObjectStore
) -> None:
    path, uri = files[name], put(store, files[name])
    cache = FileCache()
    info = probe(uri, cache)
    assert info == probe(str(path))
    spans = plan_spans(info.start_s, info.duration_s, 40.0, 1.0)
    for number, (start_s, end_s) in enumerate(spans):
        last = number == len(spans) - 1
        there = decode_span(SpanRequest(uri, start_s, end_s, 1.0, 32, is_last=last), cache)
        here = decode_span(SpanRequest(str(path), start_s, end_s, 1.0, 32, is_last=last))
        np.testing.assert_array_equal(there.frames, here.frames)
        np.testing.assert_array_equal(there.timestamps_s, here.timestamps_s)
        assert there.problem is here.problem is None
    assert store.served[f"/films/{path.name}"] <= 1.2 * path.stat().st_size


def test_a_span_costs_about_its_own_bytes(files: dict[str, Path], store: ObjectStore) -> None:
    path, uri = files["index behind"], put(store, files["index behind"])
    decode_span(SpanRequest(uri, 100.0, 110.0, 1.0, 32))
    assert store.served[f"/films/{path.name}"] < 0.15 * path.stat().st_size


@pytest.mark.parametrize("fault", ["500", "503", "cut", "slow"])
def test_a_store_that_stumbles_costs_no_frame(fault: str, files: dict[str, Path], store: ObjectStore) -> None:
    path, uri = files["index behind"], put(store, files["index behind"])
    chance, slow = random.Random(5), iter([fault] * 3)

    def stumble(method: str, path: str) -> str:
        if fault == "slow":
            return next(slow, "ok")
        return fault if method == "GET" and chance.random() < 0.3 else "ok"

    store.fault = stumble
    there = decode_span(SpanRequest(uri, 40.0, 60.0, 2.0, 32))
    here = decode_span(SpanRequest(str(path), 40.0, 60.0, 2.0, 32))
    np.testing.assert_array_equal(there.frames, here.frames)
    assert there.problem is None


def test_a_store_that_goes_away_is_not_the_end_of_a_file(
    files: dict[str, Path], store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = put(store, files["stream"])
    served = store.served
    monkeypatch.setattr(backends, "PATIENCE", Patience(attempts=2, first_pause_s=0.01))
    store.fault = lambda method, path: "503" if method == "GET" and sum(served.values()) > 2_000_000 else "ok"
    with pytest.raises(MediaError, match="cannot be read after 2 tries") as caught:
        decode_span(SpanRequest(uri, 0.0, 160.0, 1.0, 32, is_last=True))
    assert caught.value.kind == "unreachable"


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("s3://films/none.mp4", "missing", "no such file: s3://films/none.mp4"),
        ("s3://nowhere/none.mp4", "missing", "no such file"),
        ("nonsense://films/none.mp4", "decode_error", "cannot be opened"),
    ],
)
def test_what_is_not_there(uri: str, kind: str, said: str, store: ObjectStore) -> None:
    with pytest.raises(MediaError, match=said) as caught:
        probe(uri)
    assert caught.value.kind == kind


def test_an_empty_object(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(MediaError) as caught:
        probe(put(store, path))
    assert caught.value.kind == "empty_file"


def test_reads_are_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    content = random.Random(1).randbytes(3_000_000)
    fsspec.filesystem("memory").pipe("/ranges.bin", content)
    monkeypatch.setattr(ranges, "LEAST_BYTES", 1000)
    ours, theirs, chance = open_ranges("memory://ranges.bin"), io.BytesIO(content), random.Random(2)
    for step in range(2000):
        if step == 500:
            ours.settled()
        if step == 1000:
            ours.settled(2_000_000)
        if chance.random() < 0.5:
            place = chance.randrange(3_100_000)
            assert ours.seek(place) == theirs.seek(place)
        count = chance.randrange(5000)
        assert ours.read(count) == theirs.read(count)
        assert ours.tell() == theirs.tell()


def test_a_file_that_changed_is_read_anew() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/changing.bin", b"a" * 1000)
    assert open_ranges("memory://changing.bin").read(10) == b"a" * 10
    filesystem.pipe("/changing.bin", b"b" * 1001)
    assert open_ranges("memory://changing.bin").read(10) == b"b" * 10


def test_what_is_kept_is_bounded() -> None:
    kept = FileCache(most_bytes=10_000)
    for number in range(20):
        kept.add((str(number),), 0, bytes(3000))
    assert sum(kept.find((str(number),), 5) is not None for number in range(20)) == 3
    assert kept.find(("19",), 2999) is not None
    assert kept.find(("19",), 3000) is None
