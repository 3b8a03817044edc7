"""Files of other projects' test suites (tests/data/media/ORIGINS.md): ffmpeg's frames, or the true reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.media import frame_times, run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.schema.errors import MediaError

FOLDER = Path(__file__).parents[2] / "data" / "media"
SIZE = 24


@dataclass(frozen=True)
class Field:
    """What is right for a file: its first time, frames, displayed size and key pictures."""

    start_s: float
    frames: int
    width: int
    height: int
    keys_s: tuple[float, ...]


FILES = {
    "water_180_mvhevc_5frames.mov": Field(0.0, 5, 1934, 2160, (0.0,)),
    "MOV00006.3gp": Field(0.0, 222, 192, 144, (0.0, 9.032)),
    "mpeg4_no_stss_made.mp4": Field(0.0, 210, 160, 90, (0.0, 6.666667, 13.333333)),
    "roadtrip-vp92-10bit.webm": Field(0.0, 72, 426, 240, (0.0, 1.752, 2.878)),
    "iibbibb_editlist_videoonly.mp4": Field(0.0, 12, 704, 576, (2.0, 5.0, 8.0, 11.0)),
    "BA_MW_D_IDR_LOST.264": Field(1.08, 70, 176, 144, (1.08, 2.28, 3.48)),
}
REFUSED = {
    "sample_fragmented_sgpd_v2.mp4": ("encrypted", "Common Encryption, cbcs"),
    "invalid-bitstream.webm": ("decode_error", "none of 51 packets yields a picture"),
}


def test_every_file_is_here_with_its_origin() -> None:
    named = (FOLDER / "ORIGINS.md").read_text()
    files = {path.name for path in FOLDER.iterdir()} - {"ORIGINS.md"}
    assert files == FILES.keys() | REFUSED.keys()
    assert all(f"`{name}`" in named for name in files)


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_ffmpeg(name: str, tmp_path: Path) -> None:
    path, right = FOLDER / name, FILES[name]
    info = probe(str(path))
    assert (info.start_s, info.width, info.height) == (
        pytest.approx(right.start_s),
        right.width,
        right.height,
    )
    whole = decode_span(SpanRequest(str(path), info.start_s, info.end_s, 1000.0, SIZE, is_last=True))
    assert whole.problem is None
    assert len(whole.frames) == right.frames
    if not name.endswith(".264"):
        np.testing.assert_allclose(whole.timestamps_s, frame_times(path), atol=1e-3)
    raw = tmp_path / "raw.rgb"
    scaling = f"scale={SIZE}:{SIZE}:flags=bicubic+accurate_rnd+full_chroma_int:out_range=pc"
    run_ffmpeg(
        *("-flags", "-output_corrupt", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough"),
        *("-vf", scaling, "-pix_fmt", "rgb24", "-f", "rawvideo", raw),
    )
    theirs = np.frombuffer(raw.read_bytes(), np.uint8).reshape(-1, SIZE, SIZE, 3)
    assert len(theirs) == right.frames
    assert np.abs(whole.frames.astype(int) - theirs).mean(axis=(1, 2, 3)).max() < 4


@pytest.mark.parametrize("name", FILES)
def test_spans_begin_with_the_frames_of_the_whole(name: str) -> None:
    path = str(FOLDER / name)
    info = probe(path)
    whole = decode_span(SpanRequest(path, info.start_s, info.end_s, 1000.0, SIZE, is_last=True))
    for position in range(0, len(whole.frames), max(1, len(whole.frames) // 8)):
        at_s = whole.timestamps_s[position]
        part = decode_span(SpanRequest(path, at_s, at_s + 0.2, 1000.0, SIZE, is_last=True))
        assert part.timestamps_s[0] == at_s
        np.testing.assert_array_equal(part.frames[0], whole.frames[position])


@pytest.mark.parametrize("name", FILES)
def test_key_frames_are_the_key_pictures(name: str) -> None:
    path = str(FOLDER / name)
    info = probe(path)
    whole = decode_span(SpanRequest(path, info.start_s, info.end_s, 1000.0, SIZE, is_last=True))
    keys = decode_span(
        SpanRequest(path, info.start_s, info.end_s, 1000.0, SIZE, is_last=True, keyframes=True)
    )
    assert keys.problem is None
    np.testing.assert_allclose(keys.timestamps_s, FILES[name].keys_s, atol=1e-5)
    at = [int(np.argmin(np.abs(whole.timestamps_s - time_s))) for time_s in keys.timestamps_s]
    np.testing.assert_array_equal(keys.frames, whole.frames[at])


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("keyframes", [False, True])
def test_what_cannot_be_decoded_says_why(name: str, keyframes: bool) -> None:
    path, (kind, why) = str(FOLDER / name), REFUSED[name]
    with pytest.raises(MediaError) as caught:
        probe(path)
    assert caught.value.kind == kind
    assert why in str(caught.value)
    assert "copy it again" not in str(caught.value)
    with pytest.raises(MediaError) as caught:
        decode_span(SpanRequest(path, 0.0, 5.0, 1.0, SIZE, keyframes=keyframes))
    assert caught.value.kind in (kind, "no_frames")
