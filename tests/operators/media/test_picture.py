"""Pictures as they are displayed: turned, with square pixels, whatever side data their frames carry."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from av.sidedata.sidedata import Type
from support.media import VideoSpec, make_video, run_ffmpeg, turn

from malmm.operators.media.files import MediaFile
from malmm.operators.media.frames import TimedFrame, frames_from
from malmm.operators.media.picture import orientation_of
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span

SIZE = 24


def enhanced(folder: Path) -> Path:
    """H.264 whose first picture carries LCEVC enhancement, side data of type 28, as registered user data."""
    plain = folder / "plain.h264"
    run_ffmpeg("-i", make_video(folder, VideoSpec(duration_s=1.0)), "-c", "copy", plain)
    content = bytes((0xB4, 0x00, 0x50, 0x00)) + b"enhancement"
    message = b"\x00\x00\x00\x01\x06" + bytes((4, len(content))) + content + b"\x80"
    data = plain.read_bytes()
    # Before the first slice: its parameters come first.
    at = data.index(b"\x00\x00\x01\x65")
    path = folder / "enhanced.mp4"
    (folder / "enhanced.h264").write_bytes(data[:at].rstrip(b"\x00") + message + b"\x00" + data[at:])
    run_ffmpeg("-r", "24", "-i", folder / "enhanced.h264", "-c", "copy", path)
    return path


def photographed(folder: Path, orientation: int) -> Path:
    """Motion JPEG of a camera's pictures, each with EXIF, side data of type 31, that says how it was held."""
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64", "-frames:v", "1", folder / "plain.jpg")
    data = (folder / "plain.jpg").read_bytes()
    tiff = b"MM\x00*\x00\x00\x00\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\x00\x00" + tiff
    (folder / "camera.jpg").write_bytes(
        data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    )
    path = folder / "photographed.mov"
    run_ffmpeg("-loop", "1", "-t", "1", "-i", folder / "camera.jpg", "-c", "copy", path)
    return path


def first(path: Path) -> TimedFrame:
    return next(item for item in frames_from(MediaFile(str(path)), None) if isinstance(item, TimedFrame))


def test_enhanced_video_is_read_and_turned(tmp_path: Path) -> None:
    path = enhanced(tmp_path)
    turn(path, 90)
    assert orientation_of(first(path).frame).degrees == 90
    assert (probe(str(path)).width, probe(str(path)).height) == (64, 96)
    assert Type(28).value == 28


@pytest.mark.parametrize(("orientation", "degrees"), [(1, 0), (3, 180), (6, 90), (8, 270)])
def test_camera_pictures_are_turned_as_they_say(tmp_path: Path, orientation: int, degrees: int) -> None:
    path = photographed(tmp_path, orientation)
    info = probe(str(path))
    assert info.rotation == degrees
    assert (info.width, info.height) == ((96, 64) if degrees % 180 == 0 else (64, 96))
    assert len(decode_span(SpanRequest(str(path), 0.0, 1.0, 5.0, SIZE, is_last=True)).frames) == 5


def test_a_mirrored_camera_picture_is_mirrored(tmp_path: Path) -> None:
    plain, mirrored = photographed(tmp_path, 1), tmp_path / "mirrored"
    mirrored.mkdir()
    upright = decode_span(SpanRequest(str(plain), 0.0, 1.0, 1.0, SIZE)).frames[0]
    seen = decode_span(SpanRequest(str(photographed(mirrored, 2)), 0.0, 1.0, 1.0, SIZE)).frames[0]
    np.testing.assert_array_equal(seen, upright[:, ::-1])


def test_side_data_of_any_type_has_a_name(tmp_path: Path) -> None:
    first_frame = first(photographed(tmp_path, 1)).frame
    orientation_of(first_frame)
    assert [Type(value).value for value in range(200)] == list(range(200))
    assert Type(199) is Type(199)
    with pytest.raises(ValueError, match="not a valid"):
        Type("no number")


@pytest.mark.parametrize(
    ("aspect", "width"), [("1/1", 96), ("2/1", 192), ("16/15", 102), ("8/9", 85), ("1000/1", 96), ("0/1", 96)]
)
@pytest.mark.parametrize("degrees", [0, 90])
def test_size_is_that_of_square_pixels(tmp_path: Path, aspect: str, width: int, degrees: int) -> None:
    path = tmp_path / "video.mp4"
    source = "testsrc2=size=96x64:rate=12:duration=1"
    run_ffmpeg("-f", "lavfi", "-i", source, "-vf", f"setsar={aspect}", "-pix_fmt", "yuv420p", path)
    if degrees:
        turn(path, degrees)
    info = probe(str(path))
    assert (info.width, info.height) == ((64, width) if degrees else (width, 64))
    plain = make_video(tmp_path, VideoSpec("plain.mp4", rate="12", duration_s=1.0, rotation=degrees))
    ours, theirs = (decode_span(SpanRequest(str(each), 0.0, 1.0, 1.0, SIZE)).frames for each in (path, plain))
    # The model's picture is the whole picture squashed to a square, whatever its pixels' shape.
    assert np.abs(ours.astype(int) - theirs).mean() < 6


@pytest.mark.parametrize(
    ("target", "rate", "size"), [("pal-dv", 25.0, (768, 576)), ("ntsc-dv", 30000 / 1001, (640, 480))]
)
def test_raw_dv_has_its_standards_rate(
    tmp_path: Path, target: str, rate: float, size: tuple[int, int]
) -> None:
    path = tmp_path / "tape.dv"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=720x576:rate=25:duration=1", "-target", target, path)
    info = probe(str(path))
    assert info.fps == pytest.approx(rate)
    assert (info.width, info.height) == size
