"""Drawn videos as H.264 files, each with a file of its truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from malmm.model.demo.drawing import draw_scene
from malmm.model.demo.world import HEIGHT, SHAPES, WIDTH, Scene, plan_scenes

__all__ = ["draw_video", "read_truth", "truth_path"]

_FPS = 10


def truth_path(video: Path) -> Path:
    """The path of a drawn video's truth."""
    return video.with_suffix(video.suffix + ".json")


def read_truth(video: Path) -> list[Scene]:
    """The scenes of a drawn video. Raises OSError, and ValueError for an invalid truth file."""
    try:
        truth = json.loads(truth_path(video).read_text(encoding="utf-8"))
        return [Scene.from_dict(scene) for scene in truth["scenes"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{truth_path(video)} is not the truth of a drawn video: {error!r}") from error


def draw_video(
    path: Path, *, seconds: float, seed: tuple[int, ...], shapes: Sequence[str] = SHAPES
) -> list[Scene]:
    """Write an H.264 file and ``PATH.json`` beside it, which lists the scenes. Raises OSError."""
    scenes = plan_scenes(seconds, seed, shapes)
    noise = np.random.default_rng(list(seed))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # With several threads x264 often compresses the same pictures to other bytes.
        stream.codec_context.thread_count = 1
        place = 0
        for number in range(max(1, round(seconds * _FPS))):
            time_s = number / _FPS
            while place + 1 < len(scenes) and scenes[place].end_s <= time_s:
                place += 1
            picture = draw_scene(scenes[place], time_s, noise)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    truth = {"video": path.name, "seconds": seconds, "scenes": [scene.as_dict() for scene in scenes]}
    truth_path(path).write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return scenes
