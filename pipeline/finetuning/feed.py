"""A worker's part of the examples, with their frames: the training loop's ``Feed``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from malmm.model.training.learner import Shown
from malmm.operators.guard import guarded
from malmm.operators.sample_frames import sample_frames
from malmm.pipeline.finetuning.examples import Example
from malmm.pipeline.finetuning.plan import Plan
from malmm.pipeline.schema.errors import DataSetError
from malmm.pipeline.schema.rows import PICKED, array_at, carried

__all__ = ["PlannedFeed", "Sampled", "sampled_here", "sampler"]

#: Rows of ``TO_SAMPLE`` to rows of ``PICKED``, in the same order.
Sampled = Callable[[Sequence[pa.Table]], Iterator[pa.Table]]
# Clips that are decoded ahead.
_AHEAD = 16

#: The operator of a stage that samples frames.
sampler: Any = guarded("sample", PICKED, sample_frames)


def sampled_here(image_size: int) -> Sampled:
    """Sample in this process's child, while the model computes."""

    def sample(row: pa.Table) -> pa.Table:
        [picked] = sampler(row, image_size=image_size)
        return picked

    def sampled(rows: Sequence[pa.Table]) -> Iterator[pa.Table]:
        waiting = iter(rows)
        with ThreadPoolExecutor(1, thread_name_prefix="malmm-sampling") as thread:
            coming = [thread.submit(sample, row) for row in itertools.islice(waiting, _AHEAD)]
            while coming:
                yield coming.pop(0).result()
                coming += [thread.submit(sample, row) for row in itertools.islice(waiting, 1)]

    return sampled


class PlannedFeed:
    """The examples of worker ``rank`` of ``count``: of every batch, each ``count``-th."""

    def __init__(
        self,
        plan: Plan,
        held_back: Sequence[Example],
        sampled: Sampled,
        *,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.plan, self.sampled, self.rank, self.count = plan, sampled, rank, count
        self.held_back = list(held_back)[rank::count]

    def training(self, begin: int, end: int) -> Iterator[list[Shown]]:
        """This worker's examples of each of the steps [begin, end). Raises DataSetError for a clip that fails."""
        places = range(self.rank, self.plan.config.batch, self.count)
        seen = [(step, place) for step in range(begin, end) for place in places]
        rows = [self.plan.training_row(step, place) for step, place in seen]
        shown = self._shown([self.plan.example(step, place) for step, place in seen], rows)
        while part := list(itertools.islice(shown, len(places))):
            yield part

    def measuring(self) -> Iterator[list[Shown]]:
        """This worker's held-back examples. Raises DataSetError for a clip that fails."""
        rows = [self.plan.measuring_row(example) for example in self.held_back]
        shown = self._shown(self.held_back, rows)
        while part := list(itertools.islice(shown, self.plan.config.at_once)):
            yield part

    def _shown(self, examples: Sequence[Example], rows: Sequence[pa.Table]) -> Iterator[Shown]:
        # A dataset of no rows has no schema.
        picked = self.sampled(rows) if rows else iter(())
        for example, row in zip(examples, _rows(picked), strict=True):
            [held] = carried(row)
            if held.failure is not None:
                raise DataSetError(
                    f"{example.video} cannot be trained on: {held.failure.message}", path=example.source
                )
            frames = np.array(array_at(row, "frames", 0, np.uint8))
            times = tuple(row["timestamps_s"][0].as_py())
            yield Shown(frames, times, row["end_s"][0].as_py(), example.prompt, example.answer)


def _rows(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for table in tables:
        for index in range(table.num_rows):
            yield table.slice(index, 1)
