"""Frames of the drawn world, straight from the drawing: no file, no decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from malmm.model.demo.drawing import draw_scene
from malmm.model.demo.world import Scene

__all__ = ["frames_of"]


def frames_of(scenes: Sequence[Scene], seconds: int, side: int, seed: int) -> np.ndarray:
    """uint8 [seconds, side, side, 3], one frame a second."""
    noise = np.random.default_rng(seed)
    frames = []
    for second in range(seconds):
        scene = next(each for each in scenes if each.start_s <= second < each.end_s)
        picture = Image.fromarray(draw_scene(scene, second + 0.0, noise))
        frames.append(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(frames)
