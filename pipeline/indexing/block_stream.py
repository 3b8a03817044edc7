"""Iterate over a streaming dataset and yield control between blocks.

Ray Data's iterator waits until a block is ready, which for a long segment may take minutes. Meanwhile a run has to
commit, show progress and react to Ctrl-C.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import RayError

from malmm.pipeline.schema.errors import WorkerError

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

__all__ = ["received", "worker_error"]

# How long to wait for Ray Data to end a dataset that is left early. Ray must not be shut down before: that ends the
# process without a word, if another thread still calls it.
_LEAVING_S = 30.0


def received(dataset: ray.data.Dataset, *, every_s: float = 0.5) -> Iterator[pa.Table | None]:
    """Yield the dataset's blocks as they become ready, and None whenever ``every_s`` seconds pass without one.

    Raises the dataset's exceptions; those of Ray as a WorkerError with the worker's reason. Leaving early stops the
    dataset, whether or not it has a block.
    """
    ready: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()
    left = _Left()
    dataset.context.custom_execution_callback_classes = [
        *dataset.context.custom_execution_callback_classes,
        _stopping(left),
    ]

    def pull() -> None:
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                if left.event.is_set():
                    return
                ready.put(block)
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            ready.put(error)
        else:
            ready.put(None)

    thread = threading.Thread(target=pull, name="malmm-receiving", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = ready.get(timeout=every_s)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, RayError):
                raise worker_error(item) from item
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.event.set()
        thread.join(timeout=_LEAVING_S)


class _Left:
    """Whether the driver has left a dataset. Workers get a copy with the dataset's settings, and do not look at it."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Left, ()


class _LeftError(Exception):
    """Ends a dataset that the driver has left."""


def _stopping(left: _Left) -> type[ExecutionCallback]:
    """What Ray Data calls at each of its steps, several times a second. It makes an object of it by itself."""

    class Stopping(ExecutionCallback):
        def on_execution_step(self, executor: StreamingExecutor) -> None:
            if left.event.is_set():
                raise _LeftError

    return Stopping


def worker_error(error: RayError) -> WorkerError:
    """An exception of Ray's as one sentence with the worker's reason."""
    return WorkerError(f"a worker failed: {_innermost(str(error))}")


def _innermost(trace: str) -> str:
    """The last exception in a worker's traceback."""
    found = re.findall(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)$", trace, re.MULTILINE)
    kind, message = found[-1] if found else ("", " ".join(trace.split())[-300:])
    return message if kind in ("", "CheckpointError", "WorkerError") else f"{kind}: {message}"
