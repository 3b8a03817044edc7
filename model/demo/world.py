"""The drawn world: its objects, and scenes planned from a seed.

A video is a sequence of scenes. In each, one or two objects stay or move in front of a background; of two, one stays in
the left half of the picture and one in the right. A moving object trails fading copies of itself, as in a long
exposure, so that a single picture shows its direction.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "COLOURS",
    "HEIGHT",
    "MOTIONS",
    "SHAPES",
    "SIZES",
    "UNSEEN_SHAPE",
    "WIDTH",
    "Object",
    "Scene",
    "plan_scenes",
]

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 50),
    "purple": (150, 60, 190),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "star", "cross")
#: A shape that the demo model never saw, to be taught it.
UNSEEN_SHAPE = "ring"
MOTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Radius in pixels, from and to.
SIZES = {"small": (28, 34), "large": (42, 52)}
WIDTH, HEIGHT = 320, 240
SHORTEST_S, LONGEST_S = 3, 20
_TWO_OBJECTS = 0.3
_MARGIN = 4


@dataclass(frozen=True)
class Object:
    """A coloured shape: its look, its motion, and in pixels where it is half-way and how far it travels."""

    colour: str
    shape: str
    motion: str
    size: str
    radius: int
    x: int
    y: int
    travel: int

    @property
    def name(self) -> str:
        """Colour and shape, such as ``red circle``."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Seconds [start_s, end_s) in which the same objects are seen, from left to right.

    The background's two shades of RGB alternate in waves of ``wave`` pixels along ``direction`` (radians) and
    drift by ``drift`` pixels a second. ``noise`` is the sensor's standard deviation, of 255.
    """

    start_s: float
    end_s: float
    objects: tuple[Object, ...]
    shades: tuple[tuple[int, int, int], tuple[int, int, int]]
    direction: float
    wave: float
    drift: float
    noise: float

    def as_dict(self) -> dict[str, Any]:
        """The scene for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Scene:
        """Read a scene written by ``as_dict``."""
        objects = tuple(Object(**each) for each in values["objects"])
        first, second = (tuple(shade) for shade in values["shades"])
        return cls(**(values | {"objects": objects, "shades": (first, second)}))


def plan_scenes(seconds: float, seed: tuple[int, ...], shapes: Sequence[str] = SHAPES) -> list[Scene]:
    """Scenes of 3 to 20 seconds that tile the video; the same seed makes the same scenes.

    Objects are drawn without replacement: none appears again before all combinations of colour and shape did, thirty of
    the world's own shapes. So in a minute of video every question about an object has one answer.
    """
    chance = random.Random(repr(seed))  # noqa: S311 - drawing, not secrets
    deck: list[tuple[str, str]] = []
    scenes: list[Scene] = []
    start = 0.0
    while start < seconds:
        end = min(seconds, start + chance.randint(SHORTEST_S, LONGEST_S))
        if seconds - end < SHORTEST_S:
            end = seconds
        looks = []
        for _ in range(2 if chance.random() < _TWO_OBJECTS else 1):
            if not deck:
                deck = [(colour, shape) for colour in COLOURS for shape in shapes]
                chance.shuffle(deck)
            looks.append(deck.pop())
        scenes.append(plan_scene(start, end, looks, chance))
        start = end
    return scenes


def plan_scene(start_s: float, end_s: float, looks: list[tuple[str, str]], chance: random.Random) -> Scene:
    """A scene of the given objects (colour, shape), from left to right; all else is random."""
    return Scene(
        start_s=start_s,
        end_s=end_s,
        objects=tuple(_object(*look, place, len(looks), chance) for place, look in enumerate(looks)),
        shades=(_shade(chance), _shade(chance)),
        direction=round(chance.uniform(0, 6.283), 3),
        wave=round(chance.uniform(60, 400), 1),
        drift=round(chance.uniform(-25, 25), 1),
        noise=round(chance.uniform(2, 8), 1),
    )


def _shade(chance: random.Random) -> tuple[int, int, int]:
    grey = chance.randint(20, 105)
    red, green, blue = (max(0, grey + chance.randint(-18, 18)) for _ in range(3))
    return red, green, blue


def _object(colour: str, shape: str, place: int, of: int, chance: random.Random) -> Object:
    motion, size = chance.choice(list(MOTIONS)), chance.choice(list(SIZES))
    radius = chance.randint(*SIZES[size])
    room = WIDTH // of
    x = place * room + room // 2 + chance.randint(-12, 12)
    y = HEIGHT // 2 + chance.randint(-20, 20)
    across, down = MOTIONS[motion]
    reach = 0
    if across:
        reach = min(x - place * room, (place + 1) * room - x)
    elif down:
        reach = min(y, HEIGHT - y)
    travel = max(0, reach - radius - _MARGIN) * 2 if across or down else 0
    return Object(colour, shape, motion, size, radius, x, y, travel)
