"""Extracted frames as pictures: scaled as transformers' image processors do, or as MA-LMM's authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.media import VideoSpec, make_video, run_ffmpeg

from malmm.operators.pick_frames import pick_frames
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import ASKED, Carried, array_at, rows_table

SIDE = 24
# The cubic kernel's parameter, as torch has it.
KERNEL = -0.75


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two frames of noise with a hard edge, where scaling overshoots black and white."""
    chance = np.random.default_rng(0)
    for number in range(2):
        picture = chance.integers(0, 256, (32, 43, 3), dtype=np.uint8)
        picture[:, 20:30] = 0
        picture[:, 30:] = 255
        Image.fromarray(picture).save(tmp_path / f"frame{number + 1:06d}.jpg", quality=95)
    return tmp_path


def picked(source: Path, *, as_authors: bool) -> np.ndarray:
    segment = Segment("clip", "video", str(source), 0, 0.0, 0.2, is_last=False)
    asked = {"cells": [0, 1], "count": 0, "prompts": ["?"], "choices": [[]]}
    table = rows_table([Carried(None, segment, None).columns() | asked], ASKED)
    [row] = pick_frames(table, image_size=SIDE, as_authors=as_authors)
    return np.array(array_at(row, "frames", 0, np.uint8))


def weights(inner: int) -> np.ndarray:
    """A matrix [SIDE, inner] that interpolates a line by cubic convolution (Keys, 1981) at its new pixels' centres."""
    found = np.zeros((SIDE, inner))
    for place in range(SIDE):
        at = (place + 0.5) * inner / SIDE - 0.5
        first = int(np.floor(at))
        for tap in range(first - 1, first + 3):
            x = abs(at - tap)
            near = (KERNEL + 2) * x**3 - (KERNEL + 3) * x**2 + 1
            far = KERNEL * (x**3 - 5 * x**2 + 8 * x - 4)
            found[place, min(max(tap, 0), inner - 1)] += near if x <= 1 else far
    return found


def test_pictures_are_the_authors(folder: Path) -> None:
    found = picked(folder, as_authors=True)
    for number, frame in enumerate(found):
        with Image.open(folder / f"frame{number + 1:06d}.jpg") as picture:
            whole = np.asarray(picture.convert("RGB")).astype(np.float64)
        exact = np.einsum("yh,xw,hwc->yxc", weights(whole.shape[0]), weights(whole.shape[1]), whole)
        assert exact.min() < -1
        assert exact.max() > 256
        # Cut off, and wrapped around; where it is nearly whole, single precision may fall to either side.
        clear = np.abs(exact - np.rint(exact)) > 1e-3
        assert clear.mean() > 0.4
        assert np.array_equal(frame[clear], np.trunc(exact).astype(np.int64)[clear] % 256)


@pytest.mark.parametrize(
    "spec",
    [
        VideoSpec(rate="10", duration_s=1.0, width=322, height=180),
        VideoSpec(rate="10", duration_s=1.0, width=480, height=352, rotation=90),
    ],
    ids=lambda spec: f"{spec.width}x{spec.height} turned by {spec.rotation}",
)
def test_pictures_of_a_video_are_nearly_those_of_its_frames(spec: VideoSpec, tmp_path: Path) -> None:
    """As the authors' script extracts them, but for JPEG, whose loss is not imitated."""
    video, frames = make_video(tmp_path, spec), tmp_path / "frames"
    frames.mkdir()
    run_ffmpeg("-i", video, "-vf", "scale=-1:256", "-r", "10", frames / "frame%06d.png")
    for number in range(2):
        with Image.open(frames / f"frame{number + 1:06d}.png") as picture:
            assert picture.height == 256
            picture.save(frames / f"frame{number + 1:06d}.jpg", quality=100, subsampling=0)
    ours = picked(video, as_authors=True).astype(int)
    # What overshoots wraps around, so distances go around too.
    apart = np.abs(ours - picked(frames, as_authors=True))
    assert np.minimum(apart, 256 - apart).mean() < 2
    assert np.abs(ours - picked(video, as_authors=False)).mean() > 2


def test_pictures_of_other_data_sets_are_smoothed_and_stay_within_black_and_white(folder: Path) -> None:
    [frame, _] = picked(folder, as_authors=False)
    with Image.open(folder / "frame000001.jpg") as picture:
        expected = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    assert np.array_equal(frame, np.asarray(expected))
