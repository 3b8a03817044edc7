"""A file is called cut short only if it is, and a last frame that is held is not."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from support.media import VideoSpec, cut, make_video, run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.media.truncation import Wholeness, cut_short, wholeness

SIZE = 24


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.avi", "a.flv"])
def test_structure_tells_whole_files_from_cut_ones(name: str, tmp_path: Path) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = make_video(tmp_path, VideoSpec(name, rate="25", codec=codec, duration_s=2.0))
    assert wholeness(str(path)) is Wholeness.WHOLE
    assert cut_short(str(path)) is None
    for share in (0.1, 0.5, 0.9, 0.999):
        assert wholeness(str(cut(path, share, f"cut-{name}"))) is Wholeness.CUT


def test_a_live_recording_does_not_say_where_it_was_to_end(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    run_ffmpeg("-i", make_video(tmp_path, VideoSpec(duration_s=2.0)), "-c", "copy", "-live", "1", path)
    assert wholeness(str(path)) is Wholeness.UNKNOWN
    assert wholeness(str(cut(path, 0.7, "cut.mkv"))) is Wholeness.CUT


@pytest.mark.parametrize("content", [b"", b"RIFF", b"FLV", b"\x1a\x45\xdf\xa3", b"hello" * 1000, bytes(5000)])
def test_fragments_and_other_files_have_an_answer(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert wholeness(str(path)) in (Wholeness.CUT, Wholeness.UNKNOWN, Wholeness.WHOLE)


def held(folder: Path, name: str, frames: int, held_s: float) -> Path:
    """A screen recording at 5 frames a second whose last frame is shown for so long."""
    plain = make_video(folder, VideoSpec(f"plain-{name}", rate="5", duration_s=frames / 5))
    path = folder / name
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.dts is not None]
        packets[-1].duration = int(held_s / packets[-1].time_base)
        for packet in packets:
            packet.stream = stream
            target.mux(packet)
    return path


@pytest.mark.parametrize("frames", [1, 10])
@pytest.mark.parametrize("name", ["held.mp4", "held.mov", "held.mkv", "held.avi", "held.flv"])
def test_a_last_frame_that_is_held_is_the_end(name: str, frames: int, tmp_path: Path) -> None:
    path = held(tmp_path, name, frames, 30.0)
    info = probe(str(path))
    assert info.duration_s == pytest.approx(30 + (frames - 1) / 5, abs=0.3)
    for keyframes in (False, True):
        span = decode_span(
            SpanRequest(str(path), info.start_s, info.end_s, 5.0, SIZE, is_last=True, keyframes=keyframes)
        )
        assert span.problem is None
        assert span.end_s == info.end_s
        assert len(span.frames) == (1 if keyframes else frames)


@pytest.mark.parametrize("name", ["held.mp4", "held.mkv", "held.avi", "held.flv"])
def test_the_same_file_cut_short_is_called_so(name: str, tmp_path: Path) -> None:
    whole = make_video(tmp_path, VideoSpec(name, rate="25", faststart=name.endswith("mp4")))
    path = cut(whole, 0.6, f"cut-{name}")
    span = decode_span(SpanRequest(str(path), 0.0, 6.0, 2.0, SIZE, is_last=True))
    assert span.problem is not None
    assert "the file ends at" in span.problem
    assert span.end_s < 5.0
