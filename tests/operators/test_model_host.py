"""A process with all models of a run: they work at once on different batches, and each stays in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
from support.flow_rows import planned, video_at
from support.waiting import until

from malmm.operators import model_host
from malmm.operators.model_host import ModelHost, ModelStep
from malmm.pipeline.schema.rows import DECODED, carried, rows_table

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
        self.device_lost = self.loses = False

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
@pytest.mark.parametrize("when", ["before", "in it"])
def test_a_device_that_one_model_lost_ends_the_process_and_no_batch_comes_back_failed(
    name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows would only fail, the process ends: what was with it goes to another one."""

    class Ended(BaseException):
        pass

    def end(stage: str, reason: str = "") -> None:
        raise Ended(stage, reason)

    class Loses(Model):
        def __call__(self, rows: pa.Table) -> pa.Table:
            if self.name != name or not self.loses:
                return rows
            self.device_lost = True
            failed = [
                row if row.failure else row.failed(self.name, "AcceleratorError", "CUDA error: an assertion")
                for row in carried(rows)
            ]
            return rows_table([row.columns() for row in failed], rows.schema)

    monkeypatch.setattr(model_host, "end_process", end)
    made: dict[str, Model] = {}
    both = tuple(
        ModelStep(stage, DECODED, Loses, {"name": stage, "made": made}, 4) for stage in ("encode", "generate")
    )
    given = planned(video_at(duration_s=3.0), segment_s=1.0, fps=1.0)
    given[0] = given[0].failed("decode", "truncated", "it ends early")
    batch = rows_table([row.columns() for row in given], DECODED)
    host = ModelHost()
    assert host.call(both, batch).num_rows == 3
    if when == "before":
        made[name].device_lost = True
    else:
        made[name].loses = True
    with pytest.raises(Ended) as ended:
        host.call(both, batch)
    if when == "in it":
        assert ended.value.args == (name, "CUDA error: an assertion")


class Held:
    """Doubles numbers, and holds the first batch until it is let go."""

    def __init__(self, *, made: list[Held], go: threading.Event) -> None:
        made.append(self)
        self.go, self.begun, self.device_lost = go, threading.Event(), False
        self.batches: list[list[int]] = []

    def __call__(self, table: pa.Table) -> pa.Table:
        self.batches.append(table["id"].to_pylist())
        self.begun.set()
        assert self.go.wait(timeout=LIMIT_S)
        return table.set_column(0, "id", pa.array([2 * number for number in self.batches[-1]]))


def holds(queue: Sized, count: int) -> bool:
    return len(queue) == count


@pytest.mark.parametrize(
    ("gathers", "batches"),
    [(True, [[0], [1, 2, 3], [4, 5], [9], [6]]), (False, [[0], [1], [2, 3], [4, 5], [9], [6]])],
)
def test_batches_that_wait_for_a_model_go_to_it_together(gathers: bool, batches: list[list[int]]) -> None:
    made: list[Held] = []
    go = threading.Event()
    step = ModelStep("generate", SCHEMA, Held, {"made": made, "go": go}, 4, gathers=gathers)
    host = ModelHost()
    host.load([step])
    [model] = made
    queue = host._models["generate"]._waiting
    other = rows(1, 9).append_column("more", pa.array([True]))
    with ThreadPoolExecutor(6) as calls:
        done = [calls.submit(host.call, [step], rows(1))]
        assert model.begun.wait(timeout=LIMIT_S)
        for count, table in enumerate((rows(1, 1), rows(2, 2), rows(2, 4), other, rows(1, 6)), 1):
            done.append(calls.submit(host.call, [step], table))
            until(partial(holds, queue, count))
        go.set()
        found = [each.result(timeout=LIMIT_S)["id"].to_pylist() for each in done]
    assert found == [[0], [2], [4, 6], [8, 10], [18], [12]]
    assert model.batches == batches


def test_an_error_reaches_all_whose_batches_were_together() -> None:
    class Ended(SystemExit):
        pass

    class Ends(Held):
        def __call__(self, table: pa.Table) -> pa.Table:
            if self.begun.is_set():
                raise Ended
            return super().__call__(table)

    made: list[Held] = []
    go = threading.Event()
    step = ModelStep("generate", SCHEMA, Ends, {"made": made, "go": go}, 4, gathers=True)
    host = ModelHost()
    host.load([step])
    with ThreadPoolExecutor(3) as calls:
        first = calls.submit(host.call, [step], rows(1))
        assert made[0].begun.wait(timeout=LIMIT_S)
        others = [calls.submit(host.call, [step], rows(1, at)) for at in (1, 2)]
        until(partial(holds, host._models["generate"]._waiting, 2))
        go.set()
        assert first.result(timeout=LIMIT_S)["id"].to_pylist() == [0]
        assert all(isinstance(each.exception(timeout=LIMIT_S), Ended) for each in others)
