"""Probing real files of many kinds, and refusing what is not a video."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import av
import pytest
from support.media import VideoSpec, cut, damage, frame_times, make_video, run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.pipeline.schema.errors import MediaError

# Not whole blocks of 16 bytes: those may be an encrypted segment.
NOISE = random.Random(5).randbytes(200_003)

SPECS = [
    VideoSpec(),
    VideoSpec(rate="30000/1001", b_frames=2),
    VideoSpec("video.mkv", rate="25", b_frames=2, offset_s=5.0),
    VideoSpec("video.ts", rate="25", b_frames=2, offset_s=5.0),
    VideoSpec("video.flv", rate="25", b_frames=2),
    VideoSpec("video.webm", rate="25", codec="libvpx"),
    VideoSpec("video.mpg", rate="25", codec="mpeg2video"),
    VideoSpec(keep="not(mod(n\\,7))+gt(t\\,3)*not(mod(n\\,3))"),
    VideoSpec("sound.mkv", rate="25", duration_s=3.0, sound_s=20.0),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name}-{spec.rate}-b{spec.b_frames}")
def test_extent_is_that_of_the_frames(tmp_path: Path, spec: VideoSpec) -> None:
    path = make_video(tmp_path, spec)
    times = frame_times(path)
    info = probe(str(path))
    assert info.start_s == pytest.approx(times[0], abs=1e-6)
    assert times[-1] - 1e-6 < info.end_s < times[-1] + 0.5
    assert (info.width, info.height) == (spec.width, spec.height)
    assert info.rotation == 0
    numerator, _, denominator = spec.rate.partition("/")
    if spec.keep is None:
        assert info.fps == pytest.approx(int(numerator) / int(denominator or 1), rel=1e-4)
        assert info.end_s == pytest.approx(
            times[-1] + 1 / info.fps, abs=0.002 if "mpg" not in spec.name else 0.1
        )


@pytest.mark.parametrize("name", ["raw.h264", "live.mkv"])
def test_a_file_without_a_duration_is_measured(tmp_path: Path, name: str) -> None:
    whole = make_video(tmp_path, VideoSpec(rate="25"))
    path = tmp_path / name
    how = ["-f", "matroska", "-live", "1"] if name == "live.mkv" else ["-f", "h264"]
    run_ffmpeg("-i", whole, "-c", "copy", *how, path)
    assert probe(str(path)).duration_s == pytest.approx(6.0, abs=0.001)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_size_is_as_displayed(tmp_path: Path, degrees: int) -> None:
    info = probe(str(make_video(tmp_path, VideoSpec(rotation=degrees, duration_s=1))))
    assert info.rotation == degrees
    assert (info.width, info.height) == ((96, 64) if degrees == 180 else (64, 96))


def test_codec_has_its_common_name(tmp_path: Path) -> None:
    assert probe(str(make_video(tmp_path, VideoSpec(duration_s=1)))).codec == "h264"


def test_one_frame(tmp_path: Path) -> None:
    info = probe(str(make_video(tmp_path, VideoSpec(rate="25", duration_s=0.04))))
    assert (info.start_s, info.duration_s) == (0.0, pytest.approx(0.04))


def test_what_a_cut_file_declares_stays_its_end(tmp_path: Path) -> None:
    for name in ("video.mp4", "video.mkv"):
        whole = make_video(tmp_path, VideoSpec(name, rate="25", faststart=name.endswith("mp4")))
        assert probe(str(cut(whole, 0.6, f"cut-{name}"))).duration_s == pytest.approx(6.0, abs=0.05)


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    path = make_video(tmp_path, VideoSpec("a b%03d [x]:\né.mp4", duration_s=1))
    assert probe(str(path)).width == 96
    assert probe(f"file://{path}").width == 96


def check_refused(path: Path | str, kind: str) -> str:
    with pytest.raises(MediaError) as caught:
        probe(str(path))
    error = caught.value
    assert error.kind == kind
    assert error.uri == str(path)
    assert str(path) in error.message
    assert pickle.loads(pickle.dumps(error)).kind == kind  # noqa: S301
    return error.message


def test_missing(tmp_path: Path) -> None:
    check_refused(tmp_path / "none.mp4", "missing")


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    check_refused(path, "empty_file")


def test_directory(tmp_path: Path) -> None:
    assert "directory" in check_refused(tmp_path, "not_a_video")


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    check_refused(path, "not_a_video")


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.ts"])
@pytest.mark.parametrize("content", [b"hello\n" * 500, NOISE, b"\0" * 5000])
def test_text_and_noise(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    check_refused(path, "not_a_video")


@pytest.mark.parametrize("name", ["picture.jpg", "picture.png", "picture.gif", "picture.bmp"])
def test_pictures(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64", "-frames:v", "1", path)
    check_refused(path, "not_a_video")
    disguised = path.rename(tmp_path / "picture.mp4")
    check_refused(disguised, "not_a_video")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\n{other}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{other}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        '<Representation id="0" mimeType="video/mp4"><BaseURL>{other}</BaseURL><SegmentBase/></Representation>'
        "</AdaptationSet></Period></MPD>",
    ],
    ids=["hls", "concat", "sdp", "dash"],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list.mpd", "list.sdp"])
def test_playlists_open_nothing_else(tmp_path: Path, playlist: str, name: str) -> None:
    other = make_video(tmp_path, VideoSpec("other.ts", duration_s=1))
    path = tmp_path / name
    path.write_text(playlist.format(other=other.name))
    check_refused(path, "not_a_video")


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat"])
def test_the_playlists_of_these_tests_would_work_unguarded(tmp_path: Path, name: str) -> None:
    make_video(tmp_path, VideoSpec("other.ts", duration_s=1))
    path = tmp_path / name
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nother.ts\n#EXT-X-ENDLIST\n"
        if name == "list.m3u8"
        else "ffconcat version 1.0\nfile 'other.ts'\n"
    )
    with av.open(str(path)) as container:
        assert container.streams.video


def test_image_sequence_pattern_is_a_file_name(tmp_path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:duration=1", tmp_path / "frame%03d.jpg")
    check_refused(tmp_path / "frame%03d.jpg", "missing")


@pytest.mark.parametrize("name", ["sound.m4a", "sound.wav", "sound.mp3", "sound.ogg", "sound.mkv"])
def test_sound_only(tmp_path: Path, name: str) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / name)
    assert "audio" in check_refused(tmp_path / name, "no_video_stream")


def test_sound_with_a_cover_picture(tmp_path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64", "-frames:v", "1", tmp_path / "cover.jpg")
    path = tmp_path / "sound.mp3"
    sound: list[str | Path] = [
        "-f",
        "lavfi",
        "-i",
        "sine=duration=1",
        "-i",
        tmp_path / "cover.jpg",
        "-map",
        "0",
        "-map",
        "1",
    ]
    run_ffmpeg(*sound, "-c:v", "copy", "-disposition:v", "attached_pic", path)
    assert "cover picture" in check_refused(path, "no_video_stream")


def test_index_at_the_end_is_lost_with_it(tmp_path: Path) -> None:
    check_refused(cut(make_video(tmp_path, VideoSpec()), 0.5, "cut.mp4"), "truncated")


def test_index_at_the_front_cut_in_two(tmp_path: Path) -> None:
    whole = make_video(tmp_path, VideoSpec(faststart=True))
    check_refused(cut(whole, 0.02, "cut.mp4"), "truncated")


def test_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "none.mp4"
    run_ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=64x64:duration=1", "-frames:v", "0", "-c:v", "libx264", path
    )
    with pytest.raises(MediaError) as caught:
        probe(str(path))
    assert caught.value.kind in ("no_frames", "no_video_stream")


def test_index_without_the_pictures(tmp_path: Path) -> None:
    whole = make_video(tmp_path, VideoSpec(faststart=True))
    data = whole.read_bytes()
    path = tmp_path / "index.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 4])
    check_refused(path, "truncated")


def test_pictures_all_damaged(tmp_path: Path) -> None:
    whole = make_video(tmp_path, VideoSpec(faststart=True))
    data = whole.read_bytes()
    share = (data.index(b"mdat") + 4) / len(data)
    path = damage(whole, share, len(data), "noise.mp4")
    path.write_bytes(path.read_bytes()[: len(data)])
    check_refused(path, "decode_error")


def test_nothing_reaches_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = make_video(tmp_path, VideoSpec(faststart=True))
    probe(str(damage(whole, 0.5, 3000, "hurt.mp4")))
    check_refused(cut(whole, 0.02, "cut.mp4"), "truncated")
    assert capfd.readouterr().err == ""
