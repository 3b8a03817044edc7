"""Which frames of a clip a training step sees, and which part of each picture.

As in the authors' code, a clip is cut into equal parts. Training takes a random frame of each part and a random crop of
all pictures alike; measuring takes the middle frame of each part and whole pictures. Pictures are not mirrored, as that
would turn "left" into "right".
"""

from __future__ import annotations

import itertools
import math
import random

__all__ = ["WHOLE", "Box", "crop", "middle_frames", "random_frames"]

#: Left, upper, right and lower edge of a part of a picture, as shares of its sides.
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

_LEAST_AREA = 0.5
_LEAST_RATIO, _MOST_RATIO = 3 / 4, 4 / 3
_TRIES = 10


def random_frames(first: int, last: int, count: int, chance: random.Random) -> tuple[int, ...]:
    """A random frame of each of ``count`` equal parts of the frames ``first`` to ``last``, in order."""
    return tuple(chance.randrange(begin, end) for begin, end in _parts(first, last, count))


def middle_frames(first: int, last: int, count: int) -> tuple[int, ...]:
    """The middle frame of each of ``count`` equal parts of the frames ``first`` to ``last``."""
    return tuple((begin + end - 1) // 2 for begin, end in _parts(first, last, count))


def _parts(first: int, last: int, count: int) -> list[tuple[int, int]]:
    """At most as many parts [begin, end) as there are frames, none of them empty. Raises ValueError without frames."""
    frames = last - first + 1
    if frames < 1 or count < 1:
        raise ValueError(f"{count} parts of the frames {first} to {last}")
    parts = min(count, frames)
    edges = [first + frames * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def crop(chance: random.Random) -> Box:
    """A random part of at least half of a picture, its sides at most 4 to 3 (torchvision's RandomResizedCrop)."""
    for _ in range(_TRIES):
        area = chance.uniform(_LEAST_AREA, 1.0)
        ratio = math.exp(chance.uniform(math.log(_LEAST_RATIO), math.log(_MOST_RATIO)))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= 1 and height <= 1:
            left, upper = chance.uniform(0, 1 - width), chance.uniform(0, 1 - height)
            return left, upper, left + width, upper + height
    return WHOLE
