"""Taking a dataset's rows as they come, with a say between them.

Ray Data's iterator blocks until a block is ready, which for a long segment may take minutes. A run has to
commit, to show progress and to answer Ctrl-C meanwhile.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pyarrow as pa
import ray.data

__all__ = ["received"]


def received(dataset: ray.data.Dataset, *, every_s: float = 0.5) -> Iterator[pa.Table | None]:
    """Blocks of the dataset as they are ready, and None whenever ``every_s`` seconds pass without one.

    Errors of the dataset are raised here.
    """
    ready: queue.SimpleQueue[pa.Table | BaseException | None] = queue.SimpleQueue()

    def pull() -> None:
        try:
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                ready.put(block)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer has to see it
            ready.put(error)
        else:
            ready.put(None)

    threading.Thread(target=pull, name="malmm-receiving", daemon=True).start()
    while True:
        try:
            item = ready.get(timeout=every_s)
        except queue.Empty:
            yield None
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
