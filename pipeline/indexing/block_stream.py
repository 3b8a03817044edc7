"""Iterate over a streaming dataset and yield control between blocks.

Ray Data's iterator waits until a block is ready, which for a long segment may take minutes. Meanwhile a run has to
commit, show progress and react to Ctrl-C.
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator

import pyarrow as pa
import ray.data
from ray.exceptions import RayError

from malmm.pipeline.schema.errors import WorkerError

__all__ = ["received"]

# How long to wait for the next block when the iteration is left early.
_LEAVING_S = 2.0


def received(dataset: ray.data.Dataset, *, every_s: float = 0.5) -> Iterator[pa.Table | None]:
    """Yield the dataset's blocks as they become ready, and None whenever ``every_s`` seconds pass without one.

    Raises the dataset's exceptions; those of Ray as a WorkerError with the worker's reason. Leaving early stops the
    dataset at its next block.
    """
    ready: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()
    left = threading.Event()

    def pull() -> None:
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                if left.is_set():
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
                raise WorkerError(f"a worker failed: {_innermost(str(item))}") from item
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        thread.join(timeout=_LEAVING_S)


def _innermost(trace: str) -> str:
    """The last exception in a worker's traceback."""
    found = re.findall(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt)): (.+)$", trace, re.MULTILINE)
    kind, message = found[-1] if found else ("", " ".join(trace.split())[-300:])
    return message if kind == "CheckpointError" or not kind else f"{kind}: {message}"
