from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import RayError

from malmm.pipeline.indexing import block_stream
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.schema.errors import WorkerError


class Blocks:
    """Stands for a Ray dataset: gives what a function yields."""

    def __init__(self, produce: Callable[[], Iterator[pa.Table]]) -> None:
        self.produce = produce
        self.context = SimpleNamespace(custom_execution_callback_classes=[])

    def iter_batches(self, **options: Any) -> Iterator[pa.Table]:
        assert options["batch_size"] is None  # a block as it is, not filled up with the next
        assert options["batch_format"] == "pyarrow"
        return self.produce()


def block(number: int) -> pa.Table:
    return pa.table({"number": [number]})


def test_blocks_come_in_order_and_then_it_ends() -> None:
    dataset: Any = Blocks(lambda: iter([block(number) for number in range(20)]))
    assert [b["number"][0].as_py() for b in received(dataset) if b is not None] == list(range(20))


def test_no_blocks_end_at_once() -> None:
    dataset: Any = Blocks(lambda: iter([]))
    assert [b for b in received(dataset) if b is not None] == []


def test_there_is_a_say_while_none_is_ready() -> None:
    go_on = threading.Event()

    def produce() -> Iterator[pa.Table]:
        yield block(0)
        go_on.wait(20)
        yield block(1)

    dataset: Any = Blocks(produce)
    silences = 0
    taken = []
    for item in received(dataset, every_s=0.01):
        if item is not None:
            taken.append(item)
            continue
        silences += 1
        if len(taken) == 1 and silences > 3:
            go_on.set()
    assert taken == [block(0), block(1)]
    assert silences > 3


def test_an_error_is_raised_after_the_blocks_before_it() -> None:
    def produce() -> Iterator[pa.Table]:
        yield block(0)
        raise RuntimeError("the cluster went away")

    dataset: Any = Blocks(produce)
    items = (item for item in received(dataset) if item is not None)
    assert next(items) == block(0)
    with pytest.raises(RuntimeError, match="went away"):
        next(items)


def test_leaving_early_stops_the_dataset_at_its_next_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """And sooner where Ray Data asks: see the tests of model hosts."""
    monkeypatch.setattr(block_stream, "_LEAVING_S", 0.0)
    made = []
    left, stopped = threading.Event(), threading.Event()

    def produce() -> Iterator[pa.Table]:
        try:
            for number in range(1000):
                made.append(number)
                yield block(number)
                left.wait()
        finally:
            stopped.set()

    dataset: Any = Blocks(produce)
    items = received(dataset)
    assert next(items) == block(0)
    # Returns though the dataset is busy with its next block.
    items.close()  # type: ignore[attr-defined]
    assert not stopped.is_set()
    left.set()
    stopped.wait()
    assert made == [0, 1]


def trace(*lines: str) -> RayError:
    return RayError("\n".join(lines))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (trace("ray::MapWorker()", '  File "a.py", line 1', "ValueError: no GPU"), "ValueError: no GPU"),
        (trace("RuntimeError: one", "The above:", "torch.OutOfMemoryError: two"), "OutOfMemoryError: two"),
        (
            trace("malmm.model.checkpoints.checkpoint.CheckpointError: model 'x' is broken"),
            "model 'x' is broken",
        ),
        (trace("malmm.pipeline.schema.errors.WorkerError: Ray reserved GPU 0"), "Ray reserved GPU 0"),
        (trace("The actor died", "unexpectedly."), "The actor died unexpectedly."),
    ],
)
def test_a_worker_that_failed_is_one_sentence(error: RayError, said: str) -> None:
    def produce() -> Iterator[pa.Table]:
        raise error
        yield

    dataset: Any = Blocks(produce)
    with pytest.raises(WorkerError) as caught:
        list(received(dataset))
    assert str(caught.value) == f"a worker failed: {said}"
    assert caught.value.__cause__ is error
