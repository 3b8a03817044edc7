"""Every wiring is built on a Ray with GPUs, which a machine without any may claim to have, and run to its end.

The stages are small doubles: whether Ray accepts a wiring depends on what it is asked for and not on the operator.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pytest
import ray
from support.flow_rows import video_at

from malmm.operators.plan import segments_of
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Node, Resources, choose_resources
from malmm.pipeline.indexing import graph
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.fail_fast import FailFast
from malmm.pipeline.indexing.file_queue import POSITIONS, RemoteFileQueue
from malmm.pipeline.indexing.graph import Wiring, indexing, planned_before, replaying, surveying
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt, Recipe
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.plans import VideoPlan, plans_in
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    FILES,
    PROBED,
    RECEIPTS,
    REPLAYED,
    TO_REPLAY,
    Carried,
    carried,
    rows_table,
)

if TYPE_CHECKING:
    from malmm.pipeline.archive.writer import Archive

RECIPE = Recipe("debug", "none", "none", "none", 1.0, 1.0, 2, "token", 56)
SHARED = choose_resources([Node(4, 2)])
APART = Resources(2, 0.2, 1, 0.1, 1.0, 1, 0.1, 1.0)
QUESTION = Prompt("people", "How many people are there?")
INDEX = IndexConfig(("v",), "none", model="debug", batch_segments=4, prompts=(QUESTION,))


@pytest.fixture(scope="module", autouse=True)
def _gpus() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that pass rows on, with the columns that theirs would have; those with a model need a GPU."""

    def passing(schema: pa.Schema) -> Any:
        def operator(rows: pa.Table, **_: Any) -> pa.Table:
            return rows_table([row.columns() for row in carried(rows)], schema)

        return operator

    def holding(schema: pa.Schema) -> Any:
        class Operator:
            def __init__(self, **_: Any) -> None:
                assert ray.get_gpu_ids()

            def __call__(self, rows: pa.Table) -> pa.Table:
                return rows_table([row.columns() for row in carried(rows)], schema)

        return Operator

    monkeypatch.setattr(graph, "decode_segments", passing(DECODED))
    monkeypatch.setattr(graph, "EncodeSegments", holding(ENCODED))
    monkeypatch.setattr(graph, "GenerateTexts", holding(ANSWERED))
    monkeypatch.setattr(graph, "write_segments", passing(RECEIPTS))
    monkeypatch.setattr(graph, "ReplayPrompts", holding(REPLAYED))


ARCHIVE = cast("Archive", SimpleNamespace(uri="none", recipe=RECIPE))
LENGTHS = {"/videos/a.mp4": 9.0, "/videos/b.mp4": 2.0}


def probing() -> Any:
    """A double of ``probe_files`` that knows the videos of ``LENGTHS``."""
    columns = {
        uri: Carried(video_at(uri, duration_s=length), None, None).columns()
        for uri, length in LENGTHS.items()
    }

    def probe(files: pa.Table, **_: Any) -> pa.Table:
        return rows_table([columns[uri] for uri in files["uri"].to_pylist()], PROBED)

    return probe


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
@pytest.mark.parametrize(
    ("together", "resources"), [(1, SHARED), (4, SHARED), (4, APART)], ids=["alone", "together", "apart"]
)
def test_indexing_runs_on_gpus(together: int, resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of nine and of two segments, in blocks of one and of four, the second listed after the first came out."""
    monkeypatch.setattr(graph, "probe_files", probing())
    config = INDEX if resources is SHARED else IndexConfig(("v",), "none", batch_segments=4, compile=True)
    wiring = Wiring(config, RECIPE, resources, together)
    files = [rows_table([{"uri": uri, "fingerprint": "f"}], FILES) for uri in LENGTHS]
    blocks: list[pa.Table] = []
    with connected():
        queue = RemoteFileQueue(POSITIONS)
        queue.admit()
        queue.offer(files[0])
        surveyed = surveying(wiring, queue, POSITIONS)
        for block in received(indexing(surveyed, wiring, "none", pa.schema([]), expected=1)):
            if block is None or not block.num_rows:
                continue
            if not blocks:
                queue.offer(files[1])
                queue.close()
            blocks.append(block)
        plans = [plan for table in queue.take(0) for plan in plans_in(table)]
    found = [row.segment for block in blocks for row in carried(block)]
    ids = {segment.segment_id for segment in found if segment is not None}
    assert len(ids) == len(found) == 11
    assert ids == {key for plan in plans if isinstance(plan, VideoPlan) for key in plan.segment_ids}
    # What does not fill a block goes alone or with another, whichever comes first.
    assert sorted(block.num_rows for block in blocks) in (
        [[1] * 11] if together == 1 else [[3, 4, 4], [4, 7]]
    )


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
def test_an_error_in_an_operator_fails_its_rows_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, **_: Any) -> None:
            pass

        def __call__(self, rows: pa.Table) -> pa.Table:
            raise KeyError("no such column")

    monkeypatch.setattr(graph, "EncodeSegments", Broken)
    video = video_at(duration_s=5.0)
    rows = [
        Carried(video, span, None) for span in segments_of(video, RECIPE.recipe_id, RECIPE.segment_s, 1.0)
    ]
    with connected():
        made = indexing(planned_before(rows), Wiring(INDEX, RECIPE, SHARED), "none", pa.schema([]))
        found = [row for block in received(made) if block is not None for row in carried(block)]
    assert sorted(row.segment.index for row in found if row.segment) == list(range(5))
    failures = [row.failure for row in found if row.failure]
    assert {(failure.stage, failure.kind) for failure in failures} == {("encode", "KeyError")}
    assert all("test_wirings.py:" in failure.message for failure in failures)
    alike = FailFast()
    with pytest.raises(WorkerError, match="in __call__"):
        list(map(alike.see, failures))


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
@pytest.mark.parametrize("config", [INDEX, AnnotateConfig("none", prompts=(QUESTION,), model="debug")])
def test_replaying_runs_on_gpus(config: IndexConfig | AnnotateConfig) -> None:
    rows = [
        Carried(video_at(f"/videos/{number}.mp4"), None, None).columns()
        | {"segment_ids": ["00" * 12], "prompts": [0]}
        for number in range(5)
    ]
    work = [rows_table(rows[:3], TO_REPLAY), rows_table(rows[3:], TO_REPLAY)]
    with connected():
        blocks = [block for block in received(replaying(work, config, ARCHIVE, SHARED)) if block is not None]
    found = [row.video for block in blocks for row in carried(block)]
    assert len({video.uri for video in found if video is not None}) == len(found) == 5
