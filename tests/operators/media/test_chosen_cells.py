"""Single frames of a span: those of the cells that are asked for, and no others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.media import VideoSpec, frame_times, make_video

from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.schema.errors import ConfigError


@pytest.mark.parametrize(
    "spec",
    [
        VideoSpec("steady.mp4", rate="10", duration_s=3.0),
        VideoSpec("fast.mp4", rate="24", duration_s=3.0, b_frames=2),
        # Most cells begin no frame: the one before is still shown.
        VideoSpec("slow.mp4", rate="3", duration_s=3.0),
        VideoSpec("variable.mkv", rate="24", duration_s=3.0, keep="lt(n,8)+gt(n,40)"),
    ],
    ids=lambda spec: spec.name,
)
@pytest.mark.parametrize("start_s", [0.0, 0.8])
def test_each_cell_has_the_frame_that_is_shown_in_it(tmp_path: Path, spec: VideoSpec, start_s: float) -> None:
    path = make_video(tmp_path, spec)
    times = frame_times(path)
    # More often than any frame: all frames of the file, each once.
    whole = decode_span(SpanRequest(str(path), 0.0, 3.0, 100.0, 24, is_last=True))
    np.testing.assert_allclose(whole.timestamps_s, times, atol=2e-3)
    cells = (0, 1, 5, 6, 13, 21)
    span = decode_span(SpanRequest(str(path), start_s, 3.0, 10.0, 24, cells=cells))
    assert len(span.frames) == len(cells)
    for cell, picture, time_s in zip(cells, span.frames, span.timestamps_s, strict=True):
        begin = Fraction(str(start_s)) + Fraction(cell, 10)
        within = [
            place
            for place, at in enumerate(whole.timestamps_s)
            if begin - Fraction(1, 10**5) <= at < begin + Fraction(1, 10) - Fraction(1, 10**5)
        ]
        before = [place for place, at in enumerate(whole.timestamps_s) if at < begin]
        shown = within[0] if within else before[-1]
        assert time_s == whole.timestamps_s[shown]
        np.testing.assert_array_equal(picture, whole.frames[shown])


@pytest.mark.parametrize("cells", [(), (2, 1), (1, 1), (-1,)])
def test_cells_that_cannot_be_are_refused(cells: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="ascending"):
        SpanRequest("a.mp4", 0.0, 1.0, 10.0, 8, cells=cells)
    with pytest.raises(ConfigError, match="--decoder av"):
        SpanRequest("a.mp4", 0.0, 1.0, 10.0, 8, decoder="decord", cells=(0,))
