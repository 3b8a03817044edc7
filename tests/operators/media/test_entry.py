"""Entering a file in its middle gives what decoding from its beginning gives, whatever the container says of keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from support.media import run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import DecodedSpan, SpanRequest, decode_span

SIZE = 24
SOURCE = "testsrc2=size=96x64:rate=12:duration=5"


@dataclass(frozen=True)
class Stream:
    """A way to encode a stream, and the containers that hold it."""

    encoder: str
    containers: tuple[str, ...]
    pixels: str = "yuv420p"


STREAMS = {
    "h264 closed": Stream(
        "libx264 -preset ultrafast -bf 2 -g 20 -sc_threshold 0", ("mp4", "mkv", "flv", "ts", "avi")
    ),
    "h264 open": Stream(
        "libx264 -preset veryfast -x264-params keyint=20:min-keyint=20:scenecut=0:bframes=3:open-gop=1",
        ("mp4", "mkv", "ts"),
    ),
    "h264 refreshed": Stream(
        "libx264 -preset veryfast -x264-params keyint=12:intra-refresh=1:bframes=0", ("mp4", "mkv", "ts")
    ),
    "h264 one": Stream("libx264 -preset ultrafast -g 999 -sc_threshold 0", ("mp4", "avi")),
    "hevc": Stream(
        "libx265 -preset ultrafast -x265-params log-level=none:keyint=20:min-keyint=20:scenecut=0:open-gop=1:bframes=3",
        ("mp4", "mkv", "ts"),
    ),
    "hevc closed": Stream(
        "libx265 -preset ultrafast -x265-params log-level=none:keyint=20:min-keyint=20:scenecut=0:open-gop=0",
        ("mp4",),
    ),
    "mpeg4": Stream("mpeg4 -g 25 -bf 2 -q:v 4", ("mp4", "avi", "mkv", "ts")),
    "mpeg4 no b": Stream("mpeg4 -g 25 -q:v 4", ("mp4", "avi")),
    "h263": Stream("h263 -g 25 -q:v 4 -s 128x96", ("3gp", "mov", "avi")),
    "flv1": Stream("flv -g 25 -q:v 4", ("flv",)),
    "mpeg2": Stream("mpeg2video -g 15 -bf 2 -q:v 4 -r 25", ("mpg", "ts", "mp4", "mkv")),
    "mpeg1": Stream("mpeg1video -g 15 -bf 2 -q:v 4 -r 25", ("mpg", "mkv")),
    "vp8": Stream("libvpx -g 20 -auto-alt-ref 1 -lag-in-frames 10 -cpu-used 8 -b:v 200k", ("webm", "mkv")),
    "vp9": Stream(
        "libvpx-vp9 -g 20 -auto-alt-ref 1 -lag-in-frames 10 -deadline realtime -cpu-used 8", ("webm", "mp4")
    ),
    "av1": Stream("libsvtav1 -g 20 -preset 12 -svtav1-params lp=1", ("mp4", "mkv")),
    "theora": Stream("libtheora -g 20", ("ogv", "mkv")),
    "msmpeg4": Stream("msmpeg4 -g 25", ("avi", "asf")),
    "wmv2": Stream("wmv2 -g 25", ("asf", "avi")),
    "svq1": Stream("svq1 -g 20", ("mov",), "yuv410p"),
    "flashsv": Stream("flashsv -g 20", ("flv",), "bgr24"),
    "mjpeg": Stream("mjpeg", ("avi", "mov"), "yuvj420p"),
}
# What PyAV cannot copy: their parameters come with the decoder.
NOT_COPIED = ("av1", "theora")
# What a container says are key frames: those that are, every packet, or every seventh too.
FLAGS = {"true": 0, "all": 1, "some": 7}
CASES = [
    (name, container, flags)
    for name, stream in STREAMS.items()
    for container in stream.containers
    for flags in FLAGS
    if flags == "true" or (name not in NOT_COPIED and (flags == "all" or container == stream.containers[0]))
]


def encode(stream: Stream, path: Path) -> None:
    run_ffmpeg(
        *("-f", "lavfi", "-i", SOURCE, "-pix_fmt", stream.pixels, "-threads", "1"),
        *("-c:v", *stream.encoder.split()),
        path,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every stream in every container, named by both."""
    folder = tmp_path_factory.mktemp("made")
    paths = {
        (name, container): folder / f"{name.replace(' ', '-')}.{container}" for name, container, _ in CASES
    }
    for (name, _), path in paths.items():
        encode(STREAMS[name], path)
    return paths


def flagged(path: Path, every: int) -> Path:
    """A copy whose container calls every ``every``-th packet a key frame, beside those that are."""
    copy = path.with_stem(f"{path.stem}-{every}")
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is None and packet.pts is None:
                continue
            packet.stream = stream
            packet.is_keyframe = packet.is_keyframe or number % every == 0
            target.mux(packet)
    return copy


def check_keys(path: Path, whole: DecodedSpan) -> None:
    """Key frames alone are those of the same times among all frames."""
    start_s, end_s = float(whole.timestamps_s[0]), whole.end_s
    keys = decode_span(SpanRequest(str(path), start_s, end_s, 1000.0, SIZE, is_last=True, keyframes=True))
    assert (keys.problem is None) == (whole.problem is None)
    assert len(keys.frames)
    # AVI has no times of presentation.
    near_s = 0.25 if path.suffix == ".avi" else 1e-6
    for time_s, picture in zip(keys.timestamps_s, keys.frames, strict=True):
        near = whole.frames[np.isclose(whole.timestamps_s, time_s, atol=near_s)]
        assert (near == picture).all(axis=(1, 2, 3)).any(), time_s


@pytest.mark.parametrize(("name", "container", "flags"), CASES)
def test_a_span_begins_as_decoding_from_the_beginning_does(
    made: dict[tuple[str, str], Path], name: str, container: str, flags: str
) -> None:
    path = made[name, container]
    check(flagged(path, FLAGS[flags]) if FLAGS[flags] else path)


def check(path: Path) -> None:
    info = probe(str(path))
    whole = decode_span(SpanRequest(str(path), info.start_s, info.end_s, 1000.0, SIZE, is_last=True))
    assert len(whole.frames) > 50
    for position in range(0, len(whole.frames), 9):
        at_s = whole.timestamps_s[position]
        part = decode_span(SpanRequest(str(path), at_s, at_s + 0.2, 1000.0, SIZE, is_last=True))
        assert part.timestamps_s[0] == at_s
        np.testing.assert_array_equal(
            part.frames[:2], whole.frames[position : position + 2][: len(part.frames)]
        )
    check_keys(path, whole)
