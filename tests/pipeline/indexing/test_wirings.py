"""Every wiring is built on a Ray with GPUs, which a machine without any may claim to have, and run to its end.

The stages are small doubles: whether Ray accepts a wiring depends on what it is asked for and not on the operator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray
from support.flow_rows import video_at

from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Node, Resources, choose_resources
from malmm.pipeline.indexing import graph
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.graph import indexing, replaying
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt, Recipe
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    RECEIPTS,
    REPLAYED,
    TO_PLAN,
    TO_REPLAY,
    Carried,
    carried,
    rows_table,
)

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
            logging_level="ERROR",
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
    monkeypatch.setattr(graph, "MeteredEncodeSegments", holding(ENCODED))
    monkeypatch.setattr(graph, "MeteredGenerateTexts", holding(ANSWERED))
    monkeypatch.setattr(graph, "write_segments", passing(RECEIPTS))
    monkeypatch.setattr(graph, "ReplayPrompts", holding(REPLAYED))


class NowhereArchive:
    """What a wiring asks of an archive to be built."""

    uri, recipe = "none", RECIPE

    def schema(self, table: str) -> pa.Schema:
        return pa.schema([])


ARCHIVE: Archive = NowhereArchive()  # type: ignore[assignment]


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("resources", [SHARED, APART], ids=["shared", "apart"])
def test_indexing_runs_on_gpus(together: int, resources: Resources) -> None:
    """Videos of nine and of two segments, in blocks of one and of four."""
    config = INDEX if resources is SHARED else IndexConfig(("v",), "none", batch_segments=4, compile=True)
    videos = [video_at(f"/videos/{name}.mp4", duration_s=length) for name, length in (("a", 9.0), ("b", 2.0))]
    rows = rows_table([Carried(video, None, None).columns() | {"done": []} for video in videos], TO_PLAN)
    with connected():
        blocks = [
            block
            for block in received(indexing(rows, config, RECIPE, ARCHIVE, resources, together))
            if block is not None and block.num_rows
        ]
    found = [row.segment for block in blocks for row in carried(block)]
    assert len({segment.segment_id for segment in found if segment is not None}) == len(found) == 11
    assert sorted(block.num_rows for block in blocks) == ([1] * 11 if together == 1 else [3, 4, 4])


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
