"""Files that nobody would choose, each with what has to come of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from support.inline_stages import InlineStages
from support.media import VideoSpec, cut, damage, make_video, run_ffmpeg, turn

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import run_loop
from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig

STORED = "stored"
SECONDS = 8.0


def made(folder: Path, spec: VideoSpec) -> Path:
    """A video in a place of its own, to be spoilt."""
    beside = folder.parent / "whole"
    beside.mkdir(exist_ok=True)
    return make_video(beside, spec)


def moved(path: Path, folder: Path, name: str) -> None:
    path.rename(folder / name)


def truncated_with_index(folder: Path, name: str) -> None:
    moved(cut(made(folder, VideoSpec(duration_s=SECONDS, faststart=True)), 0.6, name), folder, name)


def truncated_without_index(folder: Path, name: str) -> None:
    moved(cut(made(folder, VideoSpec(duration_s=SECONDS)), 0.6, name), folder, name)


def flipped_bytes(folder: Path, name: str) -> None:
    moved(damage(made(folder, VideoSpec(duration_s=SECONDS)), 0.4, 2000, name), folder, name)


def wrong_extension(folder: Path, name: str) -> None:
    moved(made(folder, VideoSpec("video.mkv", duration_s=SECONDS)), folder, name)


def zero_length(folder: Path, name: str) -> None:
    (folder / name).touch()


def text(folder: Path, name: str) -> None:
    (folder / name).write_text("<html><body>404 Not Found</body></html>\n" * 50)


def audio_only(folder: Path, name: str) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=3", folder / name)


def one_frame(folder: Path, name: str) -> None:
    make_video(folder, VideoSpec(name, rate="25", duration_s=0.04))


def rotated(folder: Path, name: str) -> None:
    turn(make_video(folder, VideoSpec(name, duration_s=SECONDS)), 90)


def encoded(*options: str, size: str = "96x64") -> Callable[[Path, str], None]:
    """ffmpeg's test picture, encoded with these options."""

    def make(folder: Path, name: str) -> None:
        source = f"testsrc2=size={size}:rate=12:duration={SECONDS}"
        run_ffmpeg("-f", "lavfi", "-i", source, *options, folder / name)

    return make


def specified(**changes: object) -> Callable[[Path, str], None]:
    def make(folder: Path, name: str) -> None:
        make_video(folder, VideoSpec(name, **{"duration_s": SECONDS} | changes))  # type: ignore[arg-type]

    return make


def huge_in_the_header(folder: Path, name: str) -> None:
    """Raw pictures whose header says 32,000 by 32,000: 3 GB a frame, of which the file has some kilobytes."""
    small = folder.parent / "small.avi"
    run_ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x48:rate=5:duration=2",
        "-c:v",
        "rawvideo",
        "-pix_fmt",
        "bgr24",
        small,
    )
    data = bytearray(small.read_bytes())
    at = data.index(b"strf") + 12
    assert struct.unpack_from("<ii", data, at) in ((64, 48), (64, -48))
    struct.pack_into("<ii", data, at, 32_000, 32_000)
    (folder / name).write_bytes(bytes(data))


HOSTILE: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "truncated-with-index.mp4": (truncated_with_index, "truncated"),
    "truncated-without-index.mp4": (truncated_without_index, "truncated"),
    "flipped-bytes.mp4": (flipped_bytes, "damaged"),
    "matroska-called.avi": (wrong_extension, STORED),
    "zero-length.mp4": (zero_length, "empty_file"),
    "web-page.mp4": (text, "not_a_video"),
    "audio-only.mp4": (audio_only, "no_video_stream"),
    "one-frame.mp4": (one_frame, STORED),
    "ten-bit.mp4": (encoded("-c:v", "libx264", "-pix_fmt", "yuv420p10le"), STORED),
    "four-four-four.mp4": (encoded("-c:v", "libx264", "-pix_fmt", "yuv444p"), STORED),
    "odd-size.mkv": (encoded("-c:v", "ffv1", size="97x63"), STORED),
    "rotated.mp4": (rotated, STORED),
    "variable-rate.mp4": (specified(keep="not(mod(n\\,7))+gt(t\\,3)*not(mod(n\\,3))"), STORED),
    "long-between-keys.mp4": (specified(gop=10_000, b_frames=3), STORED),
    "late-start.mkv": (specified(offset_s=5000.0), STORED),
    "hevc.mp4": (encoded("-c:v", "libx265", "-x265-params", "log-level=none"), STORED),
    "vp9.webm": (encoded("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"), STORED),
    "transport-stream.ts": (specified(open_gop=True, b_frames=2), STORED),
    "huge-in-the-header.avi": (huge_in_the_header, "decode_error"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made_in = tmp_path_factory.mktemp("hostile") / "videos"
    made_in.mkdir()
    for name, (make, _) in HOSTILE.items():
        make(made_in, name)
    return made_in


@pytest.fixture(scope="module")
def indexed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ArchiveReader, IndexReport]:
    place = str(tmp_path_factory.mktemp("archives") / "archive")
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        patch.setattr(run_loop, "RETRY_PAUSES_S", ())
        config = IndexConfig(
            (str(folder),), place, model="debug", segment_s=4.0, bank_length=2, max_new_tokens=2
        )
        report = index(config)
    return ArchiveReader.open(place), report


@pytest.mark.parametrize("name", HOSTILE)
def test_each_has_its_outcome(name: str, folder: Path, indexed: tuple[ArchiveReader, IndexReport]) -> None:
    archive, report = indexed
    uri = str(folder / name)
    stored = {row["uri"] for row in archive.videos().to_pylist()}
    kinds = {failure.kind for failure in report.failures if failure.uri == uri}
    expected = HOSTILE[name][1]
    if expected == STORED:
        assert (uri in stored, kinds) == (True, set())
    else:
        assert expected in kinds
        # Part of a video that is cut short or damaged is there; what gave nothing is not.
        assert (uri in stored) == (name in ("truncated-with-index.mp4", "flipped-bytes.mp4"))


def test_all_are_accounted_for(folder: Path, indexed: tuple[ArchiveReader, IndexReport]) -> None:
    archive, report = indexed
    stored = {row["uri"] for row in archive.videos().to_pylist()}
    failed = {failure.uri for failure in report.failures}
    assert stored | failed == {str(folder / name) for name in HOSTILE}
    assert {row["uri"] for row in archive.failures().to_pylist()} == failed
    assert report.exit_code == 3
