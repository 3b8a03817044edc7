"""Hold the models of a run in one process, whatever asks for them: indexing, retries, or prompts on stored memory.

Two actors that share a GPU by fractions can be placed wrongly: two of one kind take one GPU, and the other kind finds
no room. One actor that holds all models of a run cannot, and it starts torch once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from malmm.operators.guard import end_process, guarded_actor
from malmm.pipeline.schema.rows import carried

__all__ = ["ModelHost", "ModelStep"]


@dataclass(frozen=True)
class ModelStep:
    """A stage with a model: its name, its output's schema, its operator with the constructor's options, and a batch's
    largest number of rows. An operator given by name is imported by the host alone.

    With ``gathers``, batches that wait for the model are put together, up to ``batch_rows``. The operator makes a row
    of each row, in their order.
    """

    stage: str
    schema: pa.Schema
    operator: type | str
    options: Mapping[str, Any]
    batch_rows: int
    gathers: bool = False


class ModelHost:
    """An actor with the models of a run. It is called by several threads at once.

    Each model is made and called in a thread of its own, so it is never called twice at a time: while one batch is in
    the language model, the next is in the image encoder. A model that is slower than the one before it gets what has
    gathered meanwhile in one call. CUDA graphs, too, belong to the thread that made them.
    """

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._models: dict[str, _InItsThread] = {}

    def load(self, steps: Sequence[ModelStep]) -> None:
        """Make the models of these steps. Raises what their constructors raise."""
        for step in steps:
            self._model(step)

    def call(self, steps: Sequence[ModelStep], rows: pa.Table) -> pa.Table:
        """Send a batch through these steps.

        If the GPU stopped answering, before the call or in it, the call ends the process instead: another one is then
        given the batch.
        """
        for step in steps:
            model = self._model(step)
            rows = self._in_parts(model, rows, step.batch_rows)
            if model.device_lost:
                end_process(step.stage, _reason(rows, step.stage))
        return rows

    def stay(self) -> None:
        """Wait for ever: the call fails when the process ends."""
        threading.Event().wait()

    def _model(self, step: ModelStep) -> _InItsThread:
        with self._making:
            if any(model.device_lost for model in self._models.values()):
                end_process(step.stage)
            if step.stage not in self._models:
                self._models[step.stage] = _InItsThread(step)
            return self._models[step.stage]

    @staticmethod
    def _in_parts(model: _InItsThread, rows: pa.Table, most: int) -> pa.Table:
        if rows.num_rows <= most:
            return model(rows)
        return pa.concat_tables([model(rows.slice(begin, most)) for begin in range(0, rows.num_rows, most)])


def _reason(rows: pa.Table, stage: str) -> str:
    """What the first row that failed at this stage failed of."""
    failures = [row.failure for row in carried(rows) if row.failure is not None]
    return next((failure.message for failure in failures if failure.stage == stage), "")


class _InItsThread:
    """An operator, with its guard, that is made and called in one thread."""

    def __init__(self, step: ModelStep) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"malmm-{step.stage}")
        self._most = step.batch_rows if step.gathers else 0
        self._taking = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        guarded = guarded_actor(step.stage, step.schema, step.operator)
        self._operator = self._thread.submit(guarded, **step.options).result()

    @property
    def device_lost(self) -> bool:
        return bool(self._operator.device_lost)

    def __call__(self, rows: pa.Table) -> pa.Table:
        waiting = _Waiting(rows, Future())
        with self._taking:
            self._waiting.append(waiting)
        self._thread.submit(self._answer)
        return waiting.made.result()

    def _answer(self) -> None:
        """Call the operator with the first that wait. Does nothing if an earlier call answered all."""
        with self._taking:
            together = self._first()
        if not together:
            return
        try:
            made = self._operator(pa.concat_tables([each.rows for each in together]))
        except BaseException as error:  # noqa: BLE001 - it belongs to those who wait
            for each in together:
                each.made.set_exception(error)
            return
        at = 0
        for each in together:
            each.made.set_result(made.slice(at, each.rows.num_rows))
            at += each.rows.num_rows

    def _first(self) -> list[_Waiting]:
        """Take the first batch that waits, and those behind it that fit and have the same columns."""
        together: list[_Waiting] = []
        count = 0
        while self._waiting:
            rows = self._waiting[0].rows
            count += rows.num_rows
            if together and (count > self._most or rows.schema != together[0].rows.schema):
                break
            together.append(self._waiting.popleft())
        return together


@dataclass(frozen=True)
class _Waiting:
    """A batch that waits for a model, and what becomes of it."""

    rows: pa.Table
    made: Future[pa.Table]
