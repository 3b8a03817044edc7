from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.media import VideoSpec, make_video, run_ffmpeg

from malmm.operators.media.scenes import choose_cuts, scene_changes
from malmm.pipeline.schema.errors import MediaError

seconds = st.floats(0, 500, allow_nan=False).map(lambda value: round(value, 3))


def film(folder: Path, *scenes: tuple[str, float], gop: int) -> Path:
    """Scenes of a source or colour and of a length, one after the other."""
    inputs, joined = [], ""
    for number, (source, length_s) in enumerate(scenes):
        separator = ":" if "=" in source else "="
        inputs += ["-f", "lavfi", "-i", f"{source}{separator}size=96x64:rate=12:duration={length_s}"]
        joined += f"[{number}:v]format=yuv420p,setsar=1[v{number}];"
    joined += "".join(f"[v{number}]" for number in range(len(scenes)))
    joined += f"concat=n={len(scenes)}[out]"
    path = folder / f"film-{gop}.mp4"
    run_ffmpeg(*inputs, "-filter_complex", joined, "-map", "[out]", "-c:v", "libx264", "-g", str(gop), path)
    return path


def test_an_encoder_that_sees_cuts_marks_them_exactly(tmp_path: Path) -> None:
    path = film(tmp_path, ("testsrc2", 6), ("smptebars", 5), ("rgbtestsrc", 7), gop=250)
    assert scene_changes(str(path)) == pytest.approx([6.0, 11.0], abs=1e-6)


def test_what_moves_within_a_scene_is_no_change(tmp_path: Path) -> None:
    make_video(tmp_path, VideoSpec("one.mp4", duration_s=10, gop=12, source="testsrc2"))
    assert scene_changes(str(tmp_path / "one.mp4")) == []


def test_a_cut_between_key_frames_is_found_at_the_next(tmp_path: Path) -> None:
    path = tmp_path / "blind.mp4"
    source = film(tmp_path, ("smptebars", 5.5), ("color=c=blue", 5), gop=250)
    blind = ["-c:v", "libx264", "-x264-params", "keyint=24:min-keyint=24:scenecut=0"]
    run_ffmpeg("-i", source, *blind, path)
    assert scene_changes(str(path)) == pytest.approx([6.0], abs=1e-6)


def test_a_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError) as caught:
        scene_changes(str(tmp_path / "text.mp4"))
    assert caught.value.kind == "not_a_video"


@given(seconds, seconds, st.lists(seconds, max_size=40), st.floats(0.5, 20), st.floats(2, 10))
def test_parts_keep_within_their_bounds(
    start_s: float, duration_s: float, changes: list[float], min_s: float, times: float
) -> None:
    max_s = min_s * times
    cuts = choose_cuts(start_s, duration_s, changes, min_s, max_s)
    bounds = [start_s, *cuts, start_s + duration_s]
    assert bounds == sorted(bounds)
    lengths = [end - begin for begin, end in pairwise(bounds)]
    assert max(lengths) <= max_s + 1e-6
    assert min(lengths) >= min(min_s, duration_s) - 1e-6
    # Every change that could be a cut is one, unless it came too soon after another.
    for change in changes:
        if start_s + min_s <= change <= start_s + duration_s - min_s:
            assert any(change - min_s < cut <= change + 1e-9 for cut in cuts)


def test_a_change_is_where_the_cut_is_and_else_the_longest_part() -> None:
    assert choose_cuts(0, 100, [20, 23, 90], 10, 40) == [20, 60, 90]
    assert choose_cuts(0, 39, [], 10, 40) == []
    assert choose_cuts(0, 45, [], 10, 40) == [35]
    with pytest.raises(ValueError, match="twice"):
        choose_cuts(0, 45, [], 30, 40)
