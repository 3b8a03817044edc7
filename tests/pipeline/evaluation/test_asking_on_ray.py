"""An evaluation on a Ray cluster keeps to the part of it that it may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from support.logical_gpus import cluster_with_two_gpus

from malmm.operators import pick_frames
from malmm.pipeline.evaluation import graph
from malmm.pipeline.evaluation.catalogue import DATA_SETS
from malmm.pipeline.evaluation.config import EvaluateConfig
from malmm.pipeline.evaluation.graph import Stages, asking
from malmm.pipeline.schema.cluster_use import ClusterUse
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import ASKED, PICKED, Carried, carried, rows_table

pytestmark = pytest.mark.filterwarnings("default")  # Ray's of its own settings
CLIPS = 6


@pytest.fixture(scope="module")
def labelled() -> Iterator[str]:
    """The id of a node with a label and a GPU, in a cluster whose head has two GPUs and no label."""
    with cluster_with_two_gpus() as cluster:
        cluster.add_node(num_cpus=2, num_gpus=1, labels={"zone": "a"}, object_store_memory=80_000_000)
        [node] = [node["NodeID"] for node in ray.nodes() if node["Labels"].get("zone") == "a"]
        yield node


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that fail with the place where they run: what they would make does not matter here."""

    def place() -> str:
        return ray.get_runtime_context().get_node_id()

    def picking(rows: pa.Table, **_: Any) -> pa.Table:
        picked = [row.columns() | {"prompts": [place()]} for row in carried(rows)]
        return rows_table(picked, PICKED)

    class Answering:
        def __init__(self, **_: Any) -> None:
            self.card = ray.get_gpu_ids()[0]

        def __call__(self, rows: pa.Table) -> pa.Table:
            [picked] = rows["prompts"][0].as_py()
            raise ValueError(f"{picked} {place()} {self.card} ")

    monkeypatch.setattr(pick_frames, "pick_frames", picking)
    monkeypatch.setattr(graph, "ANSWERER", Answering)


def places(use: ClusterUse) -> list[tuple[str, str, str]]:
    """Of each clip, the node that picked its frames, the node that answered, and its card."""
    protocol = DATA_SETS["own"].protocol
    config = dataclasses.replace(
        EvaluateConfig("own", Path("asked.csv"), Path("videos"), Path("scores"), protocol), cluster=use
    )
    clips = []
    for number in range(CLIPS):
        clip = Segment(str(number), "a.mp4", "a.mp4", number, number, number + 1, is_last=False)
        empty: dict[str, Any] = {"cells": None, "count": 1, "prompts": [], "choices": []}
        clips.append(rows_table([Carried(None, clip, None).columns() | empty], ASKED))
    answers = asking(clips, Stages(config, 8, lambda progress: None))
    rows = [row for block in answers if not isinstance(block, str) for row in carried(block)]
    said = [row.failure.message.split() for row in rows if row.failure is not None]
    assert len(said) == CLIPS
    return [(each[0], each[1], each[2]) for each in said]


def test_only_nodes_with_its_label_pick_frames_and_answer(labelled: str) -> None:
    found = places(ClusterUse(labels=(("zone", "a"),)))
    assert {(picked, answered) for picked, answered, _ in found} == {(labelled, labelled)}


@pytest.mark.usefixtures("labelled")
@pytest.mark.parametrize("share", [0.4, 0.1])
def test_a_share_has_a_share_of_the_cards_and_at_least_one(share: float) -> None:
    assert len({(node, card) for _, node, card in places(ClusterUse(share=share))}) == 1
