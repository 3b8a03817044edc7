"""Streams that FFmpeg's libraries give otherwise than its program shows them: its pictures, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.media import run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import DecodedSpan, SpanRequest, decode_span
from malmm.pipeline.schema.errors import MediaError

SIZE = 24
X264 = "libx264 -preset ultrafast -g 12"


@dataclass(frozen=True)
class Made:
    """How a file is encoded, its pixel format, and whether decord gives it right."""

    encoder: str
    pixels: str = "yuv420p"
    decord: bool = False


FILES = {
    # swscale scales the fields of interlaced frames apart, if it is told that they are.
    "interlaced.mp4": Made(f"{X264} -vf interlace -flags +ilme+ildct", decord=True),
    # It knows no such matrix of colours.
    "ycgco.mp4": Made(f"{X264} -colorspace ycgco"),
    # Raw streams: key frames are stored before frames that are shown earlier, and durations are guessed.
    "raw.hevc": Made("libx265 -preset ultrafast -x265-params log-level=none:keyint=12 -f hevc"),
    "raw.m1v": Made("mpeg1video -r 25 -bf 2 -g 12"),
    "raw.m2v": Made("mpeg2video -r 25 -bf 2 -g 12"),
    # ASF keeps when frames are decoded, not when they are shown.
    "b-frames.asf": Made("mpeg4 -bf 2 -g 12 -q:v 3"),
    # Pixel formats.
    "444.mp4": Made(X264, "yuv444p", decord=True),
    "422-10.mp4": Made(X264, "yuv422p10le", decord=True),
    "gray.mp4": Made(X264, "gray", decord=True),
    "rgb.webm": Made("libvpx-vp9 -deadline realtime -cpu-used 8 -g 12 -auto-alt-ref 0", "gbrp", decord=True),
    "411.mkv": Made("ffv1", "yuv411p"),
    "410.mkv": Made("ffv1", "yuv410p"),
    "bits.mkv": Made("png", "monob"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file."""
    folder = tmp_path_factory.mktemp("made")
    for name, made in FILES.items():
        source = ("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=12:duration=3", "-pix_fmt", made.pixels)
        run_ffmpeg(*source, "-threads", "1", "-c:v", *made.encoder.split(), folder / name)
    return folder


def shown_by_ffmpeg(path: Path) -> np.ndarray:
    """uint8 [T, SIZE, SIZE, 3]"""
    raw = path.with_suffix(".rgb")
    scaling = f"scale={SIZE}:{SIZE}:flags=bicubic+accurate_rnd+full_chroma_int:out_range=pc"
    run_ffmpeg(
        "-i", path, "-fps_mode", "passthrough", "-vf", scaling, "-pix_fmt", "rgb24", "-f", "rawvideo", raw
    )
    return np.frombuffer(raw.read_bytes(), np.uint8).reshape(-1, SIZE, SIZE, 3)


def whole(path: Path, *, decoder: str = "av", keyframes: bool = False) -> DecodedSpan:
    info = probe(str(path))
    return decode_span(
        SpanRequest(
            str(path), info.start_s, info.end_s, 1000.0, SIZE, decoder, is_last=True, keyframes=keyframes
        )
    )


@pytest.mark.parametrize("name", FILES)
def test_pictures_are_those_of_ffmpeg(name: str, folder: Path) -> None:
    path = folder / name
    ours, theirs = whole(path), shown_by_ffmpeg(path)
    assert ours.problem is None
    assert len(ours.frames) == len(theirs)
    assert np.abs(ours.frames.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < 4
    for at in range(0, len(theirs), 11):
        start_s = float(ours.timestamps_s[at])
        part = decode_span(SpanRequest(str(path), start_s, start_s + 0.2, 1000.0, SIZE, is_last=True))
        assert part.timestamps_s[0] == start_s
        np.testing.assert_array_equal(part.frames[0], ours.frames[at])
    keys = whole(path, keyframes=True)
    assert keys.problem is None
    assert len(keys.frames)
    for time_s, picture in zip(keys.timestamps_s, keys.frames, strict=True):
        at = int(np.argmin(np.abs(ours.timestamps_s - time_s)))
        np.testing.assert_array_equal(picture, ours.frames[at])


@pytest.mark.parametrize("name", FILES)
def test_decord_gives_them_or_refuses(name: str, folder: Path) -> None:
    path = folder / name
    if not FILES[name].decord:
        with pytest.raises(MediaError, match="use --decoder av"):
            whole(path, decoder="decord")
        return
    ours, theirs = whole(path, decoder="decord"), shown_by_ffmpeg(path)
    assert len(ours.frames) == len(theirs)
    assert np.abs(ours.frames.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < 4


def test_a_segment_without_its_index_is_called_one(tmp_path: Path) -> None:
    run_ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=12:duration=3", "-c:v", *X264.split()),
        *(
            "-f",
            "hls",
            "-hls_time",
            "9",
            "-hls_segment_type",
            "fmp4",
            "-hls_segment_filename",
            tmp_path / "part%d.m4s",
        ),
        tmp_path / "list.m3u8",
    )
    with pytest.raises(
        MediaError, match="is a segment of a stream, whose index lies in another file"
    ) as caught:
        probe(str(tmp_path / "part0.m4s"))
    assert caught.value.kind == "not_a_video"
    joined = tmp_path / "joined.mp4"
    joined.write_bytes((tmp_path / "init.mp4").read_bytes() + (tmp_path / "part0.m4s").read_bytes())
    assert len(whole(joined).frames) == 36
