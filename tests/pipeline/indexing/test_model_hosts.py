"""A run's models are loaded once: indexing, retries and prompts on stored memory use the same actors, one a GPU."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster
from support.flow_rows import video_at
from support.logical_gpus import cluster_with_two_gpus

from malmm.operators.plan_segments import segments_of
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.indexing import graph, model_hosts
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.graph import Wiring, indexing, planned_before, replaying, transcribing
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.errors import RunLost, WorkerError
from malmm.pipeline.schema.rows import (
    ANSWERED,
    AUDIBLE,
    DECODED,
    ENCODED,
    PLANNED,
    RECEIPTS,
    REPLAYED,
    TO_REPLAY,
    TRANSCRIBED,
    Carried,
    carried,
    rows_table,
)
from malmm.pipeline.schema.transcribe_config import TranscribeConfig

pytestmark = pytest.mark.filterwarnings("default")  # Ray's of its own settings

RECIPE = Recipe("debug", "none", "none", "none", 1.0, 1.0, 2, "token", 56)
RESOURCES = choose_resources([Node(4, 2)])
CONFIG = IndexConfig(("v",), "none", model="debug", batch_segments=1)
ARCHIVE = cast("Archive", SimpleNamespace(uri="none", recipe=RECIPE))
VIDEO = video_at(duration_s=8.0)
ROWS = [Carried(VIDEO, span, None) for span in segments_of(VIDEO, RECIPE.recipe_id, 1.0, 1.0)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Cluster]:
    """A cluster with two GPUs, which a machine without any may claim to have."""
    with cluster_with_two_gpus() as started:
        yield started


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have operators with a model write down where they are made, and end their process where a file says so: once, or
    at a segment; or wait for ever, or as long as the file is there, and write down who does."""
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
                here = [row.segment.index for row in carried(rows) if row.segment]
                (folder / f"rows {name} {'-'.join(map(str, here))} {os.getpid()}").touch()
                if any((folder / f"kill {name} at {index}").exists() for index in here):
                    os._exit(1)
                if (folder / f"kill {name} 0").exists():
                    # Another process may have taken it.
                    with contextlib.suppress(FileNotFoundError):
                        (folder / f"kill {name} 0").unlink()
                        os._exit(1)
                if (folder / f"hold {name}").exists():
                    (folder / f"holds {name} {os.getpid()}").touch()
                    while (folder / f"hold {name}").exists():
                        time.sleep(0.02)
                if (folder / f"wait {name}").exists():
                    (folder / f"waits {name}").touch()
                    threading.Event().wait()
                return rows_table([row.columns() for row in carried(rows)], schema)

        return Operator

    monkeypatch.setattr(graph, "decode_segments", passing(DECODED))
    monkeypatch.setattr(graph, "listen_to_spans", passing(AUDIBLE))
    monkeypatch.setattr(graph, "write_segments", passing(RECEIPTS))
    monkeypatch.setattr(graph, "ENCODER", model("encode", ENCODED))
    monkeypatch.setattr(graph, "GENERATOR", model("generate", ANSWERED))
    monkeypatch.setattr(graph, "REPLAYER", model("replay", REPLAYED))
    monkeypatch.setattr(graph, "TRANSCRIBER", model("transcribe", TRANSCRIBED))
    return folder


def made(log: Path) -> list[tuple[str, int]]:
    """The models that were loaded, each with its process."""
    names = [
        path.name.split()
        for path in log.iterdir()
        if not path.name.startswith(("kill", "wait", "hold", "rows"))
    ]
    return sorted((name, int(pid)) for name, _, pid in names)


def indexed(hosts: ModelHosts, rows: list[Carried], together: int = 1) -> list[Carried]:
    config = replace(CONFIG, batch_segments=together)
    dataset = indexing(
        planned_before(rows),
        Wiring(config, RECIPE, RESOURCES),
        hosts,
        "none",
        pa.schema([]),
        expected=len(rows),
    )
    return [row for block in hosts.watched(received(dataset)) if block is not None for row in carried(block)]


def test_a_retry_of_one_segment_and_descriptions_load_no_model_again(log: Path) -> None:
    with ModelHosts(RESOURCES) as hosts:
        assert (hosts.loading, hosts.loaded_s) == (0, None)
        assert len(indexed(hosts, ROWS[:1])) == 1
        assert hosts.loaded_s is not None
        assert hosts.loaded_s > 0
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
    """A row that kills its process alone fails, and takes no other with it: also not those in the same process.

    A batch stays together until it is known that its process dies of it.
    """

    def failures(found: list[Carried]) -> list[tuple[int, str]]:
        assert sorted(row.segment.index for row in found if row.segment) == list(range(8))
        return [(row.segment.index, row.failure.kind) for row in found if row.segment and row.failure]

    (log / "kill generate 0").touch()
    with ModelHosts(RESOURCES) as hosts:
        assert failures(indexed(hosts, ROWS)) == []
        assert len([name for name, _ in made(log) if name == "generate"]) >= 2
        for path in log.glob("rows *"):
            path.unlink()
        (log / "kill encode at 3").touch()
        assert failures(indexed(hosts, ROWS, together=4)) == [(3, "worker_lost")]
    began = Counter(path.name.split()[2] for path in log.glob("rows encode *"))
    # The other batch may have been in a process that died, but was never taken apart.
    assert began.pop("4-5-6-7") <= 3
    assert began == {"0-1-2-3": 2, "0": 1, "1": 1, "2": 1, "3": 1}


def test_spans_of_sound_go_on_without_a_worker_that_dies_and_one_that_kills_its_worker_fails_alone(
    log: Path,
) -> None:
    resources = ClusterPlan(one_model=True).resources([Node(4, 2)])
    (log / "kill transcribe 0").touch()
    (log / "kill transcribe at 5").touch()
    spans = [rows_table([row.columns()], PLANNED) for row in ROWS]
    with ModelHosts(resources) as hosts:
        dataset = transcribing(spans, TranscribeConfig("none", model="debug"), resources, hosts)
        blocks = [block for block in hosts.watched(received(dataset)) if block is not None]
    found = [row for block in blocks for row in carried(block)]
    assert sorted(row.segment.index for row in found if row.segment) == list(range(8))
    lost = [
        (row.segment.index, row.failure.stage, row.failure.kind)
        for row in found
        if row.segment and row.failure
    ]
    assert lost == [(5, "transcribe", "worker_lost")]


def test_nodes_that_come_are_used_and_processes_of_those_that_leave_are_replaced(
    cluster: Cluster, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine batches are on their way once a third GPU is there, three for each: also stages may have more tasks."""
    monkeypatch.setattr(model_hosts, "NODES_EVERY_S", 0.0)
    (log / "hold encode").touch()

    def held() -> int:
        return len(list(log.glob("holds encode *")))

    video = video_at(duration_s=9.0)
    rows = [Carried(video, span, None) for span in segments_of(video, RECIPE.recipe_id, 1.0, 1.0)]
    found: list[Carried] = []
    nodes: list[Any] = []
    with ModelHosts(RESOURCES, ClusterPlan()) as hosts:
        dataset = indexing(
            planned_before(rows), Wiring(CONFIG, RECIPE, RESOURCES), hosts, "none", pa.schema([]), expected=9
        )
        for block in hosts.watched(received(dataset, every_s=0.05)):
            found += carried(block) if block is not None else []
            if not nodes and held() == 2:
                nodes.append(cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=80_000_000))
            if len(nodes) == 1 and held() == 3:
                # The third has work: what it held goes to the other ones, or to the fourth.
                cluster.remove_node(nodes[0])
                nodes.append(cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=80_000_000))
            if len(nodes) == 2 and held() == 4:
                (log / "hold encode").unlink(missing_ok=True)
        assert hosts.batches == 9
    assert len(found) == 9
    assert [row.failure for row in found if row.failure] == []
    assert Counter(name for name, _ in made(log)) == {"encode": 4, "generate": 4}
    cluster.remove_node(nodes[1])


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


def test_no_row_fails_of_the_end_of_the_actor_that_hands_out_hosts(log: Path) -> None:
    """Rows that wait for a host, or are in one, are lost and not failed: another run makes them."""
    (log / "hold encode").touch()
    found: list[Carried] = []

    def go_on_until_it_is_gone(hosts: ModelHosts) -> None:
        rows = planned_before(ROWS)
        dataset = indexing(rows, Wiring(CONFIG, RECIPE, RESOURCES), hosts, "none", pa.schema([]), expected=8)
        for block in hosts.watched(received(dataset, every_s=0.05)):
            found.extend(carried(block) if block is not None else [])
            if (log / "hold encode").exists() and list(log.glob("holds encode *")):
                ray.kill(hosts.run_actor._actor)
                (log / "hold encode").unlink()

    with ModelHosts(RESOURCES) as hosts, pytest.raises(RunLost, match="run again to go on"):
        go_on_until_it_is_gone(hosts)
    assert [row.failure for row in found if row.failure] == []
