"""A run's models are loaded once: indexing, retries and prompts on stored memory use the same actors, one a GPU."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
import ray
from support.flow_rows import video_at
from support.logical_gpus import ray_with_two_gpus

from malmm.operators.plan_segments import segments_of
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.indexing import graph
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.graph import Wiring, indexing, planned_before, replaying
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    RECEIPTS,
    REPLAYED,
    TO_REPLAY,
    Carried,
    carried,
    rows_table,
)

pytestmark = pytest.mark.filterwarnings("default")  # Ray's of its own settings

RECIPE = Recipe("debug", "none", "none", "none", 1.0, 1.0, 2, "token", 56)
RESOURCES = choose_resources([Node(4, 2)])
CONFIG = IndexConfig(("v",), "none", model="debug", batch_segments=1)
ARCHIVE = cast("Archive", SimpleNamespace(uri="none", recipe=RECIPE))
VIDEO = video_at(duration_s=8.0)
ROWS = [Carried(VIDEO, span, None) for span in segments_of(VIDEO, RECIPE.recipe_id, 1.0, 1.0)]


@pytest.fixture(scope="module", autouse=True)
def ray_with_gpus() -> Iterator[None]:
    """A Ray with two GPUs, which a machine without any may claim to have."""
    with ray_with_two_gpus():
        yield


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have operators with a model write down where they are made, and end their process where a file says so: once, or
    at a segment; or wait for ever."""
    folder = tmp_path / "log"
    folder.mkdir()

    def passing(schema: pa.Schema) -> Any:
        def operator(rows: pa.Table, **_: Any) -> pa.Table:
            return rows_table([row.columns() for row in carried(rows)], schema)

        return operator

    def model(name: str, schema: pa.Schema) -> Any:
        class Operator:
            def __init__(self, **_: Any) -> None:
                [gpu] = ray.get_gpu_ids()
                (folder / f"{name} {gpu} {os.getpid()}").touch()

            def __call__(self, rows: pa.Table) -> pa.Table:
                if any(
                    (folder / f"kill {name} at {row.segment.index}").exists()
                    for row in carried(rows)
                    if row.segment
                ):
                    os._exit(1)
                if (folder / f"kill {name} 0").exists():
                    # Another process may have taken it.
                    with contextlib.suppress(FileNotFoundError):
                        (folder / f"kill {name} 0").unlink()
                        os._exit(1)
                if (folder / f"wait {name}").exists():
                    (folder / f"waits {name}").touch()
                    threading.Event().wait()
                return rows_table([row.columns() for row in carried(rows)], schema)

        return Operator

    monkeypatch.setattr(graph, "decode_segments", passing(DECODED))
    monkeypatch.setattr(graph, "write_segments", passing(RECEIPTS))
    monkeypatch.setattr(graph, "ENCODER", model("encode", ENCODED))
    monkeypatch.setattr(graph, "GENERATOR", model("generate", ANSWERED))
    monkeypatch.setattr(graph, "REPLAYER", model("replay", REPLAYED))
    return folder


def made(log: Path) -> list[tuple[str, int]]:
    """The models that were loaded, each with its process."""
    names = [path.name.split() for path in log.iterdir() if not path.name.startswith(("kill", "wait"))]
    return sorted((name, int(pid)) for name, _, pid in names)


def indexed(hosts: ModelHosts, rows: list[Carried]) -> list[Carried]:
    dataset = indexing(
        planned_before(rows),
        Wiring(CONFIG, RECIPE, RESOURCES),
        hosts,
        "none",
        pa.schema([]),
        expected=len(rows),
    )
    return [row for block in hosts.watched(received(dataset)) if block is not None for row in carried(block)]


def test_a_retry_of_one_segment_and_descriptions_load_no_model_again(log: Path) -> None:
    with ModelHosts(RESOURCES) as hosts:
        assert len(indexed(hosts, ROWS[:1])) == 1
        # One segment needs one process, however many GPUs there are.
        [(_, process), (_, same)] = made(log)
        assert process == same
        assert len(indexed(hosts, ROWS[1:2])) == 1
        work = [rows_table([ROWS[0].columns() | {"segment_ids": ["00" * 12], "prompts": [0]}], TO_REPLAY)]
        blocks = [
            block
            for block in hosts.watched(received(replaying(work, CONFIG, ARCHIVE, hosts)))
            if block is not None
        ]
        assert sum(block.num_rows for block in blocks) == 1
        assert made(log) == [("encode", process), ("generate", process), ("replay", process)]


def test_a_process_that_dies_is_replaced_and_its_rows_go_to_another(log: Path) -> None:
    """A row that kills its process again fails, and takes no other with it: also not those in the same process."""

    def failures(found: list[Carried]) -> list[tuple[int, str]]:
        assert sorted(row.segment.index for row in found if row.segment) == list(range(8))
        return [(row.segment.index, row.failure.kind) for row in found if row.segment and row.failure]

    (log / "kill generate 0").touch()
    with ModelHosts(RESOURCES) as hosts:
        assert failures(indexed(hosts, ROWS)) == []
        assert len([name for name, _ in made(log) if name == "generate"]) >= 2
        (log / "kill encode at 3").touch()
        assert failures(indexed(hosts, ROWS)) == [(3, "worker_lost")]


def test_a_dataset_that_is_left_while_a_model_works_ends_at_once(log: Path) -> None:
    """Ray ends the process if a thread calls it after it was shut down."""
    (log / "wait encode").touch()
    with ModelHosts(RESOURCES) as hosts:
        rows = planned_before(ROWS[:3])
        dataset = indexing(rows, Wiring(CONFIG, RECIPE, RESOURCES), hosts, "none", pa.schema([]), expected=3)
        for block in hosts.watched(received(dataset)):
            assert block is None
            if (log / "waits encode").exists():
                break
        assert not [thread.name for thread in threading.enumerate() if thread.name == "malmm-receiving"]


def test_a_model_that_cannot_be_loaded_ends_the_run_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, **_: Any) -> None:
            raise ValueError("the weights are those of another model")

    monkeypatch.setattr(graph, "GENERATOR", Broken)
    with ModelHosts(RESOURCES) as hosts, pytest.raises(WorkerError, match="those of another model"):
        indexed(hosts, ROWS[:2])
