"""Draw pictures of the drawn world."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from malmm.model.demo.world import COLOURS, HEIGHT, MOTIONS, UNSEEN_SHAPE, WIDTH, Object, Scene

__all__ = ["draw_scene", "position"]

# A moving object's copies: how far behind, in radii, and how opaque, the faintest first.
_TRAIL = ((1.5, 0.2), (1.0, 0.35), (0.5, 0.5))
_LEVELS = np.linspace(0, 1, 256, dtype=np.float32)[:, None]


def position(thing: Object, share: float) -> tuple[float, float]:
    """Centre (x, y) in pixels after ``share`` of the scene, 0 to 1."""
    across, down = MOTIONS[thing.motion]
    return thing.x + across * (share - 0.5) * thing.travel, thing.y + down * (share - 0.5) * thing.travel


def draw_scene(scene: Scene, time_s: float, noise: np.random.Generator) -> np.ndarray:
    """The picture at ``time_s`` of the video, uint8 [240, 320, 3], with sensor noise."""
    elapsed = time_s - scene.start_s
    image = Image.fromarray(_background(scene, elapsed))
    share = elapsed / max(scene.end_s - scene.start_s, 1e-6)
    for thing in scene.objects:
        x, y = position(thing, share)
        across, down = MOTIONS[thing.motion]
        if across or down:
            for behind, opacity in _TRAIL:
                back = behind * thing.radius
                _stamp(image, thing, x - across * back, y - down * back, opacity)
        _stamp(image, thing, x, y, 1)
    grain = noise.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32) * np.float32(scene.noise)
    return (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)


def _background(scene: Scene, elapsed_s: float) -> np.ndarray:
    turns = 2 * math.pi / scene.wave
    across = np.arange(WIDTH) * (math.cos(scene.direction) * turns)
    down = (np.arange(HEIGHT) * math.sin(scene.direction) + scene.drift * elapsed_s) * turns
    # The sine of a sum, from sines of its parts: a row and a column instead of every pixel.
    waves = np.outer(np.cos(down), np.sin(across)) + np.outer(np.sin(down), np.cos(across))
    first, second = (np.array(shade, dtype=np.float32) for shade in scene.shades)
    palette = (first + (second - first) * _LEVELS).astype(np.uint8)
    return palette[(127.5 + 127.5 * waves).astype(np.uint8)]


def _stamp(image: Image.Image, thing: Object, x: float, y: float, opacity: float) -> None:
    mask = Image.new("L", (2 * thing.radius + 2,) * 2)
    _outline(ImageDraw.Draw(mask), thing.shape, thing.radius, fill=round(255 * opacity))
    image.paste(COLOURS[thing.colour], (round(x) - thing.radius, round(y) - thing.radius), mask)


def _outline(draw: ImageDraw.ImageDraw, shape: str, r: int, *, fill: int) -> None:
    """Draw the shape around (r, r)."""
    if shape == "circle":
        draw.ellipse((0, 0, 2 * r, 2 * r), fill=fill)
    elif shape == "square":
        inset = r // 10
        draw.rectangle((inset, inset, 2 * r - inset, 2 * r - inset), fill=fill)
    elif shape == "triangle":
        draw.polygon([(r, 0), (0, 2 * r), (2 * r, 2 * r)], fill=fill)
    elif shape == UNSEEN_SHAPE:
        draw.ellipse((0, 0, 2 * r, 2 * r), fill=fill)
        hole = 0.55 * r
        draw.ellipse((r - hole, r - hole, r + hole, r + hole), fill=0)
    elif shape == "cross":
        third = r / 3
        draw.rectangle((0, r - third, 2 * r, r + third), fill=fill)
        draw.rectangle((r - third, 0, r + third, 2 * r), fill=fill)
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, r, 0.4 * r)
        draw.polygon(
            [
                (r + float(d * np.cos(a)), r + float(d * np.sin(a)))
                for a, d in zip(angles, reach, strict=True)
            ],
            fill=fill,
        )
