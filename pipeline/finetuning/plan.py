"""Which example each step of a training sees, and which of its frames: a function of the seed and of the step alone.

So a training that was killed goes on with the examples that it would have seen, and however many workers share a batch,
the batch is the same.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from malmm.model.training.sampling import WHOLE, Box, crop, middle_frames, random_frames
from malmm.pipeline.finetuning.config import FinetuneConfig
from malmm.pipeline.finetuning.examples import Example
from malmm.pipeline.schema.config import stable_id
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import TO_SAMPLE, Carried, rows_table

__all__ = ["Plan", "steps_of"]

_RATE = 10


def steps_of(config: FinetuneConfig, examples: int) -> tuple[int, int]:
    """The number of steps of a training, and after how many of them it measures."""
    steps = max(1, math.ceil(config.epochs * examples / config.batch))
    every = config.every or max(1, math.ceil(examples / config.batch))
    return steps, min(every, steps)


@dataclass(frozen=True)
class Plan:
    """The order of a training's examples. Each is seen once in every pass, in an order of the pass's own."""

    examples: tuple[Example, ...]
    config: FinetuneConfig

    def example(self, step: int, place: int) -> Example:
        """The example at ``place`` of a step's batch."""
        number = step * self.config.batch + place
        turn, at = divmod(number, len(self.examples))
        return self.examples[_order(self.config.seed, turn, len(self.examples))[at]]

    def training_row(self, step: int, place: int) -> pa.Table:
        """A row of ``TO_SAMPLE``: random frames and a random crop."""
        number = step * self.config.batch + place
        chance = random.Random(f"{self.config.seed} {number}")  # noqa: S311 - training, not secrets
        example = self.example(step, place)
        cells = random_frames(example.first, example.last, self._count(example), chance)
        return _row(example, cells, crop(chance) if self.config.crops else WHOLE)

    def measuring_row(self, example: Example) -> pa.Table:
        """A row of ``TO_SAMPLE``: middle frames, whole pictures."""
        return _row(example, middle_frames(example.first, example.last, self._count(example)), WHOLE)

    def _count(self, example: Example) -> int:
        seconds = (example.last - example.first + 1) / _RATE
        return min(self.config.frames, max(1, math.ceil(seconds * self.config.fps)))


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(f"{seed} pass {turn}").shuffle(order)  # noqa: S311 - training, not secrets
    return tuple(order)


def _row(example: Example, cells: tuple[int, ...], box: Box) -> pa.Table:
    clip = stable_id("clip", example.source, *cells, *box)
    start_s = example.first / _RATE
    segment = Segment(clip, example.video, example.source, 0, start_s, example.end_s, is_last=False)
    columns = {"cells": list(cells), "prompts": [example.prompt], "choices": [[]], "box": list(box)}
    return rows_table([Carried(None, segment, None).columns() | columns], TO_SAMPLE)
