"""A pool of drawn scenes at one frame a second, at the model's image size, for training.

Pictures go through JPEG instead of H.264, which costs a tenth; evaluation is on real H.264 files.
"""

from __future__ import annotations

import io
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from malmm.model.demo.drawing import draw_scene, position
from malmm.model.demo.world import COLOURS, HEIGHT, LONGEST_S, MOTIONS, SHAPES, SHORTEST_S, WIDTH, plan_scene

__all__ = ["ABSENT", "IGNORED", "Pool", "make_pool"]

ABSENT = len(COLOURS), len(SHAPES), len(MOTIONS)
"""The attributes (colour, shape, motion) that stand for no object."""
IGNORED = -100
_LOOKS = [(colour, shape) for colour in COLOURS for shape in SHAPES]
_COLOURS, _SHAPES, _MOTIONS = list(COLOURS), list(SHAPES), list(MOTIONS)


@dataclass(frozen=True)
class Pool:
    """F frames of S scenes.

    ``frames`` uint8 [F, side, side, 3]; ``scene_of`` [F], rising; ``attributes`` [S, 2, 3], colour, shape and
    motion of the left or only object and of the right one; ``patches`` [F, P] tells which object a patch
    shows: 0 the first, 1 the second, -1 none, ``IGNORED`` not sure.
    """

    frames: np.ndarray
    scene_of: np.ndarray
    attributes: np.ndarray
    patches: np.ndarray

    @property
    def begins(self) -> np.ndarray:
        """Where each scene's frames begin, and where the last one's end [S + 1]."""
        return np.searchsorted(self.scene_of, np.arange(len(self.attributes) + 1))

    def save(self, path: Path) -> None:
        """Save the pool to a safetensors file."""
        save_file(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Load a pool written by ``save``."""
        return cls(**load_file(path))


def make_pool(scenes: int, *, side: int, grid: int, seed: int, processes: int = 2) -> Pool:
    """Draw ``scenes`` scenes for pictures of ``side`` pixels and ``grid`` by ``grid`` patches."""
    parts = 4 * processes
    shares = [scenes * (part + 1) // parts - scenes * part // parts for part in range(parts)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as executor:
        drawn = list(
            executor.map(_draw, shares, [side] * parts, [grid] * parts, [(seed, p) for p in range(parts)])
        )
    attributes = np.concatenate([part.attributes for part in drawn])
    starts = np.cumsum([0, *shares[:-1]])
    return Pool(
        np.concatenate([part.frames for part in drawn]),
        np.concatenate([part.scene_of + start for part, start in zip(drawn, starts, strict=True)]),
        attributes,
        np.concatenate([part.patches for part in drawn]),
    )


def _draw(scenes: int, side: int, grid: int, seed: tuple[int, int]) -> Pool:
    chance = random.Random(repr(seed))  # noqa: S311 - drawing, not secrets
    noise = np.random.default_rng(list(seed))
    frames, scene_of, attributes, patches = [], [], [], []
    for number in range(scenes):
        length = chance.randint(SHORTEST_S, LONGEST_S)
        looks = chance.sample(_LOOKS, 1 if chance.random() < 0.6 else 2)
        scene = plan_scene(0.0, float(length), looks, chance)
        known = [
            (_COLOURS.index(o.colour), _SHAPES.index(o.shape), _MOTIONS.index(o.motion))
            for o in scene.objects
        ]
        attributes.append([*known, ABSENT][:2])
        phase = chance.random()
        for second in range(length):
            time_s = min(second + phase, length - 1e-3)
            picture = io.BytesIO()
            Image.fromarray(draw_scene(scene, time_s, noise)).save(
                picture, "JPEG", quality=chance.randint(35, 90), subsampling=2
            )
            seen = Image.open(picture).resize((side, side), Image.Resampling.BICUBIC)
            frames.append(np.asarray(seen))
            scene_of.append(number)
            patches.append(_patches(scene.objects, time_s / length, grid))
    return Pool(
        np.stack(frames),
        np.array(scene_of, dtype=np.int64),
        np.array(attributes, dtype=np.int64),
        np.stack(patches),
    )


def _patches(objects: tuple, share: float, grid: int) -> np.ndarray:
    centres = (np.arange(grid) + 0.5) / grid
    across, down = np.meshgrid(centres * WIDTH, centres * HEIGHT)
    half = np.hypot(WIDTH, HEIGHT) / grid / 2
    labels = np.full((grid, grid), -1, dtype=np.int64)
    for place, thing in enumerate(objects):
        x, y = position(thing, share)
        distance = np.hypot(across - x, down - y)
        # The trail and the rim show something of the object, but not for certain which.
        labels[(distance < 2.6 * thing.radius) & (labels == -1)] = IGNORED
        labels[distance < max(0.9 * thing.radius, half)] = place
    return labels.reshape(-1)
