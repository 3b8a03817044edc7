"""Sound is at its place on the video's clock, whatever the container, and silence is known as such."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.media import run_ffmpeg

from malmm.operators.media.audio import RATE, read_sound, voiced_spans
from malmm.operators.media.sandbox.client import Sandbox

# A click each second: where each one is found says where the sound was put.
CLICKS = "aevalsrc='0.8*lt(mod(t,1),0.02)*sin(2*PI*1000*t)':s=44100:d=12"


@pytest.fixture(scope="module", params=["mp4 aac", "mkv libopus", "mkv flac", "ts aac", "avi pcm_s16le"])
def clicks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    ending, codec = request.param.split()
    path = tmp_path_factory.mktemp("clicks") / f"clicks.{ending}"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=blue:s=64x48:r=10:d=12", "-f", "lavfi", "-i", CLICKS),
        *("-c:a", codec, "-shortest", path),
    )
    return path


def onsets(samples: np.ndarray) -> list[float]:
    """Seconds at which clicks begin."""
    loud = np.flatnonzero(np.abs(samples) > 0.3)
    firsts = loud[np.r_[True, np.diff(loud) > RATE // 2]] if len(loud) else loud
    return [round(float(first) / RATE, 3) for first in firsts]


def test_a_span_has_what_the_whole_has_there(clicks: Path) -> None:
    # Transport streams begin at 1.4 s, and so does their picture.
    whole = read_sound(str(clicks), 0.0, 14.0)
    assert whole.problem is None
    at_s = onsets(whole.samples)
    assert len(at_s) >= 11
    assert np.diff(at_s) == pytest.approx([1.0] * (len(at_s) - 1), abs=0.03)
    part = read_sound(str(clicks), 4.5, 9.25)
    assert len(part.samples) == round(4.75 * RATE)
    assert onsets(part.samples) == pytest.approx([each - 4.5 for each in at_s if 4.5 <= each < 9.2], abs=0.03)


def test_a_video_without_sound_has_no_samples(tmp_path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "color=blue:s=64x48:r=10:d=1", tmp_path / "mute.mp4")
    with Sandbox() as sandbox:
        assert len(sandbox.sound(str(tmp_path / "mute.mp4"), 0.0, 1.0).samples) == 0


def test_silence_is_left_out_and_short_pauses_are_not() -> None:
    samples = np.zeros(20 * RATE, np.float32)
    for begin_s in (2, 4, 14):
        samples[begin_s * RATE : (begin_s + 1) * RATE] = 0.2
    assert [(round(a / RATE, 1), round(b / RATE, 1)) for a, b in voiced_spans(samples)] == [
        (1.7, 5.3),
        (13.7, 15.3),
    ]
    assert voiced_spans(samples * 0.001) == []
    assert voiced_spans(samples[:0]) == []
