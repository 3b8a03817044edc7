"""Drawn videos: scenes of a coloured shape that stays or moves, with what they show written down."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

__all__ = ["COLOURS", "MOTIONS", "SHAPES", "Scene", "draw_video", "plan_scenes"]

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 50),
    "purple": (150, 60, 190),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
MOTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_WIDTH, _HEIGHT, _FPS = 320, 240, 12
_NOISE = 3.0


@dataclass(frozen=True)
class Scene:
    """Seconds [start_s, end_s) in which one object is seen before a background."""

    start_s: float
    end_s: float
    colour: str
    shape: str
    motion: str
    radius: int
    background: tuple[int, int, int]


def plan_scenes(seconds: float, seed: tuple[int, ...]) -> list[Scene]:
    """Scenes of 3 to 20 seconds that tile the video; the same seed gives the same scenes."""
    chance = random.Random(repr(seed))  # noqa: S311 - drawing, not secrets
    scenes: list[Scene] = []
    start = 0.0
    while start < seconds:
        end = min(seconds, start + chance.randint(3, 20))
        if seconds - end < 3:
            end = seconds
        shade = chance.randint(20, 110)
        scenes.append(
            Scene(
                start_s=start,
                end_s=end,
                colour=chance.choice(list(COLOURS)),
                shape=chance.choice(SHAPES),
                motion=chance.choice(list(MOTIONS)),
                radius=chance.randint(28, 60),
                background=(shade, shade + chance.randint(-15, 15), shade + chance.randint(-15, 15)),
            )
        )
        start = end
    return scenes


def draw_video(path: Path, *, seconds: float, seed: tuple[int, ...]) -> list[Scene]:
    """Write an H.264 file and ``PATH.json`` beside it, which lists the scenes. Raises OSError."""
    scenes = plan_scenes(seconds, seed)
    noise = np.random.default_rng(list(seed))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_FPS, options={"preset": "veryfast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        for number in range(max(1, round(seconds * _FPS))):
            time_s = number / _FPS
            scene = next((s for s in scenes if s.start_s <= time_s < s.end_s), scenes[-1])
            picture = np.asarray(_picture(scene, time_s - scene.start_s), dtype=np.float32)
            noisy = picture + noise.normal(0, _NOISE, picture.shape[:2])[..., None]
            frame = av.VideoFrame.from_ndarray(noisy.clip(0, 255).astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    truth = {"video": path.name, "seconds": seconds, "scenes": [asdict(scene) for scene in scenes]}
    path.with_suffix(path.suffix + ".json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return scenes


def _picture(scene: Scene, elapsed_s: float) -> Image.Image:
    image = Image.new("RGB", (_WIDTH, _HEIGHT), scene.background)
    across, down = MOTIONS[scene.motion]
    length = max(scene.end_s - scene.start_s, 1e-6)
    # From one side to the other over the scene; a still object is in the middle.
    travelled = elapsed_s / length - 0.5
    x = _WIDTH / 2 + across * travelled * (_WIDTH - 2 * scene.radius)
    y = _HEIGHT / 2 + down * travelled * (_HEIGHT - 2 * scene.radius)
    draw = ImageDraw.Draw(image)
    colour, r = COLOURS[scene.colour], scene.radius
    if scene.shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif scene.shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
    elif scene.shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=colour)
    elif scene.shape == "cross":
        third = r / 3
        draw.rectangle((x - r, y - third, x + r, y + third), fill=colour)
        draw.rectangle((x - third, y - r, x + third, y + r), fill=colour)
    else:
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, r, 0.4 * r)
        draw.polygon(
            [
                (x + float(d * np.cos(a)), y + float(d * np.sin(a)))
                for a, d in zip(angles, reach, strict=True)
            ],
            fill=colour,
        )
    return image
