"""Decoding spans of real files: the right frames, each once, with their own times, whatever the file."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import av
import numpy as np
import pytest
from support.media import VideoSpec, cut, damage, frame_times, make_video, run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import DecodedSpan, SpanRequest, decode_span
from malmm.operators.media.sampling import plan_spans
from malmm.pipeline.schema.errors import ConfigError, MediaError

SIZE = 32
SPECS = {
    "constant": VideoSpec(),
    "ntsc": VideoSpec(rate="30000/1001", b_frames=2, gop=30),
    "variable": VideoSpec(keep="not(mod(n\\,7))+gt(t\\,3)*not(mod(n\\,3))", b_frames=2),
    "long group": VideoSpec(gop=1000, b_frames=3),
    "open group": VideoSpec("video.mkv", b_frames=3, gop=30, open_gop=True),
    "stream": VideoSpec("video.ts", rate="25", b_frames=2, gop=30, open_gop=True, offset_s=5.0),
    "late": VideoSpec("video.mkv", rate="25", b_frames=2, offset_s=5.0),
    "program": VideoSpec("video.mpg", rate="25", codec="mpeg2video", b_frames=2),
    "flash": VideoSpec("video.flv", rate="25", b_frames=2),
    "turned": VideoSpec(rotation=90),
    "one": VideoSpec(rate="25", duration_s=0.04),
}
DECORD_READS = ("constant", "ntsc", "variable", "long group", "late", "turned", "one")


_made: dict[str, Path] = {}


@pytest.fixture(scope="module", autouse=True)
def _videos(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, spec in SPECS.items():
        _made[name] = make_video(tmp_path_factory.mktemp(name.replace(" ", "-")), spec)


def video(name: str) -> Path:
    """The path of a named test video."""
    return _made[name]


def decode_all(
    path: Path, segment_s: float, fps: float, decoder: str = "av", threads: int = 1
) -> DecodedSpan:
    """All spans of a video in one."""
    info = probe(str(path))
    spans = plan_spans(info.start_s, info.duration_s, segment_s, fps)
    parts = []
    for number, (start_s, end_s) in enumerate(spans):
        is_last = number == len(spans) - 1
        part = decode_span(SpanRequest(str(path), start_s, end_s, fps, SIZE, decoder, threads, is_last))
        assert part.problem is None
        assert part.end_s == end_s
        parts.append(part)
    frames = np.concatenate([part.frames for part in parts])
    return DecodedSpan(frames, np.concatenate([part.timestamps_s for part in parts]), None, spans[-1][1])


def expected_times(path: Path, segment_s: float, fps: float) -> list[float]:
    """The rule, stated plainly over the times that ffprobe prints."""
    times = frame_times(path)
    start_s = times[0]
    # ffprobe prints microseconds.
    near = 2e-6
    chosen, cells = [], set()
    for moment in times:
        segment = int((moment - start_s + near) // segment_s)
        cell = (segment, int((moment - start_s - segment * segment_s + near) * fps))
        if cell not in cells:
            cells.add(cell)
            chosen.append(moment)
    return chosen


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SPECS)
def test_spans_together_give_what_the_rule_selects(name: str, threads: int) -> None:
    path = video(name)
    for segment_s, fps in ((2.0, 2.0), (1.5, 10.0)):
        decoded = decode_all(path, segment_s, fps, threads=threads)
        np.testing.assert_allclose(decoded.timestamps_s, expected_times(path, segment_s, fps), atol=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_entering_in_the_middle_gives_the_same_pictures(name: str) -> None:
    path = video(name)
    info = probe(str(path))
    whole = decode_span(SpanRequest(str(path), info.start_s, info.end_s, 1000.0, SIZE, is_last=True))
    np.testing.assert_allclose(whole.timestamps_s, frame_times(path)[: len(whole.frames)], atol=1e-6)
    for position in range(0, len(whole.frames), 17):
        at_s = whole.timestamps_s[position]
        part = decode_span(SpanRequest(str(path), at_s, at_s + 0.2, 1000.0, SIZE, is_last=True))
        assert part.timestamps_s[0] == at_s
        np.testing.assert_array_equal(part.frames[0], whole.frames[position])


@pytest.mark.parametrize("name", DECORD_READS)
def test_decord_gives_the_same_times_and_nearly_the_same_pictures(name: str) -> None:
    path = video(name)
    ours, theirs = decode_all(path, 2.0, 2.0), decode_all(path, 2.0, 2.0, "decord")
    np.testing.assert_array_equal(ours.timestamps_s, theirs.timestamps_s)
    difference = np.abs(ours.frames.astype(int) - theirs.frames).mean(axis=(1, 2, 3))
    assert difference.max() < 8
    if len(ours.frames) > 1:
        # Far less than to the neighbouring sample: the frames are the same ones.
        assert difference.max() < np.abs(np.diff(ours.frames.astype(int), axis=0)).mean()


@pytest.mark.parametrize("name", ["open group", "stream", "program", "flash"])
def test_decord_is_refused_where_it_would_give_other_frames(name: str) -> None:
    with pytest.raises(MediaError, match="use --decoder av"):
        decode_all(video(name), 2.0, 2.0, "decord")


def test_pictures_are_squashed_whole_and_in_true_colour(tmp_path: Path) -> None:
    source = VideoSpec(source="smptebars", width=320, height=180, duration_s=0.5)
    path = make_video(tmp_path, source)
    picture = decode_span(SpanRequest(str(path), 0.0, 0.5, 1.0, 224)).frames[0].astype(int)
    assert picture.shape == (224, 224, 3)
    # The seven bars, from grey to blue, each a seventh of the width.
    bars = [(180, 180, 180), (180, 180, 16), (16, 180, 180), (16, 180, 16)]
    for number, colour in enumerate(bars):
        seen = picture[60, 16 + 32 * number]
        assert np.abs(seen - colour).max() < 24, (number, seen)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_turns_the_picture(tmp_path: Path, degrees: int) -> None:
    upright = make_video(tmp_path, VideoSpec("upright.mp4", duration_s=0.5))
    turned = make_video(tmp_path, VideoSpec("turned.mp4", duration_s=0.5, rotation=degrees))
    plain = decode_span(SpanRequest(str(upright), 0.0, 0.5, 1.0, SIZE)).frames[0]
    picture = decode_span(SpanRequest(str(turned), 0.0, 0.5, 1.0, SIZE)).frames[0]
    np.testing.assert_array_equal(picture, np.rot90(plain, -degrees // 90))
    # ffmpeg itself turns the same way.
    raw = tmp_path / "raw.rgb"
    scaling = f"scale={SIZE}:{SIZE}:flags=bicubic+accurate_rnd+full_chroma_int"
    run_ffmpeg("-i", turned, "-frames:v", "1", "-vf", scaling, "-pix_fmt", "rgb24", "-f", "rawvideo", raw)
    reference = np.frombuffer(raw.read_bytes(), np.uint8).reshape(SIZE, SIZE, 3)
    assert np.abs(picture.astype(int) - reference).mean() < 12


def test_one_frame() -> None:
    decoded = decode_span(SpanRequest(str(video("one")), 0.0, 0.04, 1.0, SIZE, is_last=True))
    assert decoded.timestamps_s.tolist() == [0.0]


def test_a_video_without_length_gives_its_frame() -> None:
    decoded = decode_span(SpanRequest(str(video("one")), 0.0, 0.0, 1.0, SIZE, is_last=True))
    assert decoded.timestamps_s.tolist() == [0.0]
    assert decoded.problem is None


def test_the_end_is_open_unless_it_is_the_last() -> None:
    path = str(video("constant"))
    assert decode_span(SpanRequest(path, 0.0, 1.0, 1.0, SIZE)).timestamps_s.tolist() == [0.0]
    last = decode_span(SpanRequest(path, 0.0, 5.0, 1.0, SIZE, is_last=True))
    assert last.timestamps_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_file_that_goes_on_after_its_declared_end_says_so() -> None:
    decoded = decode_span(SpanRequest(str(video("constant")), 0.0, 2.0, 1.0, SIZE, is_last=True))
    assert decoded.problem is not None
    assert "goes on after 2.0 s" in decoded.problem


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_a_cut_file_gives_what_it_holds(tmp_path: Path, name: str) -> None:
    spec = VideoSpec(f"whole{name[3:]}", rate="25", faststart=name.endswith("mp4"))
    path = cut(make_video(tmp_path, spec), 0.6, name)
    whole = decode_span(SpanRequest(str(path), 0.0, 6.0, 2.0, SIZE, is_last=True))
    assert whole.problem is not None
    assert "the file ends at" in whole.problem
    assert "of 6.0 s" in whole.problem
    assert 2.0 < whole.end_s < 5.0
    assert whole.timestamps_s[-1] < whole.end_s
    assert decode_span(SpanRequest(str(path), 0.0, 2.0, 2.0, SIZE)).problem is None
    with pytest.raises(MediaError, match="the file ends at") as caught:
        decode_span(SpanRequest(str(path), 5.5, 6.0, 2.0, SIZE, is_last=True))
    assert caught.value.kind == "no_frames"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["hurt.mp4", "hurt.mkv", "hurt.ts"])
def test_damage_in_the_middle_is_skipped_and_told(tmp_path: Path, name: str, threads: int) -> None:
    whole = make_video(tmp_path, VideoSpec(f"whole{name[4:]}", rate="25", duration_s=8))
    path = damage(whole, 0.5, 4000, name)
    info = probe(str(path))
    start_s = info.start_s
    decoded = decode_span(
        SpanRequest(str(path), start_s, info.end_s, 2.0, SIZE, threads=threads, is_last=True)
    )
    assert decoded.problem is not None
    assert "could not be decoded between" in decoded.problem
    assert decoded.timestamps_s[0] == start_s
    assert decoded.timestamps_s[-1] > start_s + 7
    assert (
        decode_span(SpanRequest(str(path), start_s, start_s + 2, 2.0, SIZE, threads=threads)).problem is None
    )
    assert (
        decode_span(SpanRequest(str(path), start_s + 6, start_s + 7, 2.0, SIZE, threads=threads)).problem
        is None
    )


def test_decord_refuses_a_cut_file(tmp_path: Path) -> None:
    path = cut(make_video(tmp_path, VideoSpec(faststart=True)), 0.6, "cut.mp4")
    with pytest.raises(MediaError, match="use --decoder av"):
        decode_span(SpanRequest(str(path), 0.0, 6.0, 2.0, SIZE, decoder="decord", is_last=True))


def test_nothing_reaches_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = damage(make_video(tmp_path, VideoSpec()), 0.4, 4000, "hurt.mp4")
    decode_span(SpanRequest(str(path), 0.0, 6.0, 2.0, SIZE, is_last=True))
    assert capfd.readouterr().err == ""


def test_the_end_of_a_long_video_costs_no_more_than_its_start(tmp_path: Path) -> None:
    short = make_video(tmp_path, VideoSpec("short.mp4", duration_s=10, width=320, height=240, gop=48))
    long = tmp_path / "long.mp4"
    run_ffmpeg("-stream_loop", "59", "-i", short, "-c", "copy", long)
    end_s = probe(str(long)).end_s

    def cost_s(at_s: float) -> float:
        begun_s = time.process_time()
        decode_span(SpanRequest(str(long), at_s, at_s + 5.0, 2.0, SIZE))
        return time.process_time() - begun_s

    cost_s(0.0)
    # Decoding all that lies before would cost about a hundred times as much.
    assert min(cost_s(end_s - 6.0) for _ in range(3)) < 10 * min(cost_s(0.0) for _ in range(3))


def test_memory_is_that_of_the_cells(tmp_path: Path) -> None:
    decoded = decode_span(SpanRequest(str(video("constant")), 0.0, 6.0, 1.0, SIZE, is_last=True))
    base = decoded.frames if decoded.frames.base is None else decoded.frames.base
    assert base.nbytes <= 8 * SIZE * SIZE * 3


def test_nothing_waits_for_the_garbage_collector() -> None:
    path = str(video("turned"))
    gc.collect()
    gc.disable()
    try:
        before = sum(issubclass(type(item), av.VideoFrame) for item in gc.get_objects())
        decode_span(SpanRequest(path, 0.0, 6.0, 4.0, SIZE, is_last=True))
        kept = [item for item in gc.get_objects() if issubclass(type(item), av.VideoFrame)]
        assert len(kept) - before <= 1
        assert all(frame.width <= SIZE for frame in kept[before:])
    finally:
        gc.enable()


@pytest.mark.parametrize("decoder", ["av", "decord"])
def test_what_is_no_video_is_refused(tmp_path: Path, decoder: str) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("hello\n" * 100)
    with pytest.raises(MediaError) as caught:
        decode_span(SpanRequest(str(text), 0.0, 1.0, 1.0, SIZE, decoder=decoder))
    assert caught.value.kind == "not_a_video"
    with pytest.raises(MediaError) as caught:
        decode_span(SpanRequest(os.fspath(tmp_path / "none.mp4"), 0.0, 1.0, 1.0, SIZE, decoder=decoder))
    assert caught.value.kind == "missing"


def test_settings_that_cannot_be_are_refused() -> None:
    path = str(video("constant"))
    with pytest.raises(ConfigError, match="av or decord"):
        decode_span(SpanRequest(path, 0.0, 1.0, 1.0, SIZE, decoder="opencv"))
    with pytest.raises(ConfigError, match="above 0"):
        decode_span(SpanRequest(path, 0.0, 1.0, 0.0, SIZE))
    with pytest.raises(ConfigError, match="cannot decode from"):
        decode_span(SpanRequest(path, 1.0, 0.0, 1.0, SIZE))
    with pytest.raises(ConfigError, match="pixels"):
        decode_span(SpanRequest(path, 0.0, 1.0, 1.0, 0))


@pytest.mark.parametrize("name", SPECS)
def test_key_frames_alone_are_the_files_own(name: str) -> None:
    """Every picture is that of the same time in a full decoding, and every key frame is there."""
    path, info = str(video(name)), probe(str(video(name)))
    keys = key_times(video(name))
    for start_s, end_s in plan_spans(info.start_s, info.duration_s, 2.5, 10.0):
        last = end_s == plan_spans(info.start_s, info.duration_s, 2.5, 10.0)[-1][1]
        span = decode_span(SpanRequest(path, start_s, end_s, 10.0, SIZE, is_last=last, keyframes=True))
        inside = [key for key in keys if start_s <= key < end_s]
        every = decode_span(SpanRequest(path, start_s, end_s, 1000.0, SIZE, is_last=last))
        assert span.problem is every.problem is None
        if not inside:
            assert len(span.frames) == 1
            np.testing.assert_array_equal(span.frames[0], every.frames[0])
            continue
        np.testing.assert_allclose(span.timestamps_s, inside, atol=1e-6)
        for time_s, picture in zip(span.timestamps_s, span.frames, strict=True):
            [at] = np.flatnonzero(np.isclose(every.timestamps_s, time_s, atol=1e-6))
            np.testing.assert_array_equal(picture, every.frames[at])


def key_times(path: Path) -> list[float]:
    """When key frames are shown, from the packets."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [
            float(packet.pts * packet.time_base)
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None and packet.time_base is not None
        ]


def test_key_frames_are_thinned_to_the_rate() -> None:
    path = str(video("constant"))
    span = decode_span(SpanRequest(path, 0.0, 6.0, 1.0, SIZE, is_last=True, keyframes=True))
    assert span.timestamps_s.tolist() == [0, 1, 2, 3, 4, 5]


def test_decord_cannot_decode_key_frames_alone() -> None:
    with pytest.raises(ConfigError, match="needs --decoder av"):
        decode_span(
            SpanRequest(str(video("constant")), 0.0, 1.0, 1.0, SIZE, decoder="decord", keyframes=True)
        )
