"""A process with all models of a run: they work at once on different batches, and each stays in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from malmm.operators import model_host
from malmm.operators.model_host import ModelHost, ModelStep

# No measure of speed: for a test that would wait for ever.
LIMIT_S = 600.0
SCHEMA = pa.schema([])


class Model:
    """Appends its name to the rows. ``meeting`` is passed by two threads at a time."""

    def __init__(
        self, *, name: str, made: dict[str, Model], meeting: threading.Barrier | None = None
    ) -> None:
        made[name] = self
        self.name, self.meeting = name, meeting
        self.threads = {threading.get_ident()}
        self.sizes: list[int] = []
        self.device_lost = False

    def __call__(self, rows: pa.Table) -> pa.Table:
        self.threads.add(threading.get_ident())
        self.sizes.append(rows.num_rows)
        if self.meeting is not None:
            self.meeting.wait(timeout=LIMIT_S)
        return rows.append_column(self.name, pa.array([self.name] * rows.num_rows))


def steps(made: dict[str, Model], rows: Mapping[str, int], **options: Any) -> tuple[ModelStep, ...]:
    """Steps by their names, each with a batch's largest number of rows."""
    return tuple(
        ModelStep(name, SCHEMA, Model, {"name": name, "made": made, **options}, most)
        for name, most in rows.items()
    )


def rows(count: int, at: int = 0) -> pa.Table:
    return pa.table({"id": list(range(at, at + count))})


def test_while_one_batch_is_in_the_second_model_the_next_is_in_the_first() -> None:
    """The models meet: the second one of batch N with the first one of batch N + 1."""
    made: dict[str, Model] = {}
    barrier = threading.Barrier(2)
    both = steps(made, {"encode": 4, "generate": 4}, meeting=barrier)
    host = ModelHost()
    host.load(both)
    with ThreadPoolExecutor(2) as calls:
        done = [calls.submit(host.call, both, rows(1, number)) for number in range(5)]
        # The first batch's first model and the last batch's second one meet nobody but this test.
        barrier.wait(timeout=LIMIT_S)
        done[-2].result(timeout=LIMIT_S)
        barrier.wait(timeout=LIMIT_S)
        ids = [each.result(timeout=LIMIT_S)["id"].to_pylist() for each in done]
    assert ids == [[0], [1], [2], [3], [4]]
    assert [len(model.threads) for model in made.values()] == [1, 1]
    assert made["encode"].threads != made["generate"].threads


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(5, 9, [5]), (5, 2, [2, 2, 1]), (2, 2, [2]), (0, 2, [0])]
)
def test_each_model_has_batches_of_its_own_size(count: int, most: int, sizes: list[int]) -> None:
    made: dict[str, Model] = {}
    found = ModelHost().call(steps(made, {"encode": most, "generate": 9}), rows(count))
    assert found.column_names == ["id", "encode", "generate"]
    assert found["id"].to_pylist() == list(range(count))
    assert (made["encode"].sizes, made["generate"].sizes) == (sizes, [count])


def test_a_model_is_loaded_once_whatever_asks_for_it() -> None:
    """Indexing, and then prompts on stored memory: the language model is the same."""
    made: dict[str, Model] = {}
    host = ModelHost()
    indexing, replaying = (steps(made, {first: 4, "generate": 4}) for first in ("encode", "replay"))
    host.load(indexing)
    language = made["generate"]
    host.call(indexing, rows(1))
    host.call(replaying, rows(1))
    assert made.keys() == {"encode", "replay", "generate"}
    assert made["generate"] is language


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    with pytest.raises(TypeError, match="unexpected"):
        ModelHost().load(steps({}, {"encode": 4}, unexpected=1))


@pytest.mark.parametrize("name", ["encode", "generate"])
def test_a_device_that_one_model_lost_ends_the_process_with_the_next_call(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def end(stage: str) -> None:
        raise Ended

    monkeypatch.setattr(model_host, "end_process", end)
    made: dict[str, Model] = {}
    both = steps(made, {"encode": 4, "generate": 4})
    host = ModelHost()
    host.call(both, rows(1))
    made[name].device_lost = True
    with pytest.raises(Ended):
        host.call(both, rows(1))
