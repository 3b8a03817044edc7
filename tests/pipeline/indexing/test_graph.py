"""Every wiring is built on a Ray and run to its end, with small doubles of the operators and with the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.data import Dataset
from support.flow_rows import video_at
from support.growing_archive import Growing
from support.inline_stages import InlineStages, NoHosts
from support.logical_gpus import ray_with_two_gpus
from support.media import VideoSpec, make_video

from malmm.model.checkpoints.resolve import open_models
from malmm.operators.plan_segments import segments_of
from malmm.operators.probe import probe_files
from malmm.pipeline.archive import search_indexes, vector_index
from malmm.pipeline.archive.index_states import index_states
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.resources import Node, Resources, choose_resources
from malmm.pipeline.indexing import graph
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.fail_fast import FailFast
from malmm.pipeline.indexing.file_queue import POSITIONS, RemoteFileQueue, positions_for
from malmm.pipeline.indexing.graph import (
    Wiring,
    indexing,
    planned_before,
    replaying,
    segments_a_block,
    surveying,
    transcribing,
)
from malmm.pipeline.indexing.index import make_recipe
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.indexing.run_actor import RunActor
from malmm.pipeline.indexing.run_loop import committed_ids
from malmm.pipeline.indexing.stage_sizes import StageSizes
from malmm.pipeline.indexing.worker_indexing import build_on_workers
from malmm.pipeline.schema.cluster_use import ClusterUse
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt, Recipe
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    FILES,
    PLANNED,
    PROBED,
    RECEIPTS,
    REPLAYED,
    TO_REPLAY,
    Carried,
    array_at,
    carried,
    rows_table,
)
from malmm.pipeline.schema.transcribe_config import TranscribeConfig
from malmm.pipeline.schema.video_plans import VideoPlan, plans_in

RESOURCES = Resources(
    decode_workers=1,
    decode_cpus=1.0,
    encode_workers=1,
    encode_cpus=0.25,
    encode_gpus=0,
    generate_workers=1,
    generate_cpus=0.25,
    generate_gpus=0,
)
RECIPE = Recipe("debug", "none", "none", "none", 1.0, 1.0, 2, "token", 56)
SHARED = choose_resources([Node(4, 2)])
APART = Resources(2, 0.2, 1, 0.1, 1.0, 1, 0.1, 1.0)
QUESTION = Prompt("people", "How many people are there?")
INDEX = IndexConfig(("v",), "none", model="debug", batch_segments=4, prompts=(QUESTION,))
ON_RAY = pytest.mark.filterwarnings("default")  # Ray's of its own settings


@pytest.mark.parametrize(
    ("segments", "batch", "decoders", "together"),
    [(63, 4, 1, 1), (64, 4, 1, 4), (64, 4, 2, 1), (1_000_000, 8, 100, 8), (0, 4, 1, 1), (16, 1, 1, 1)],
)
def test_segments_go_together_where_every_decoder_has_enough_of_them(
    segments: int, batch: int, decoders: int, together: int
) -> None:
    config = IndexConfig(("v",), "a", batch_segments=batch)
    resources = Resources(decoders, 1.0, 1, 0.25, 0, 1, 0.25, 0)
    assert segments_a_block(segments, config, resources) == together


@pytest.fixture(scope="module")
def ray_with_gpus() -> Iterator[None]:
    """A Ray with two GPUs, which a machine without any may claim to have."""
    with ray_with_two_gpus():
        yield


@pytest.fixture
def doubles(ray_with_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that pass rows on, with the columns that theirs would have; those with a model need a GPU.

    Whether Ray accepts a wiring depends on what it is asked for and not on the operator.
    """

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
    monkeypatch.setattr(graph, "ENCODER", holding(ENCODED))
    monkeypatch.setattr(graph, "GENERATOR", holding(ANSWERED))
    monkeypatch.setattr(graph, "write_segments", passing(RECEIPTS))
    monkeypatch.setattr(graph, "REPLAYER", holding(REPLAYED))


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


@ON_RAY
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize(
    ("together", "resources"), [(1, SHARED), (4, APART)], ids=["alone, in one actor", "together, in two"]
)
def test_indexing_runs_on_gpus(together: int, resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of nine and of two segments, in blocks of one and of four, the second listed after the first came out."""
    monkeypatch.setattr(graph, "probe_files", probing())
    config = INDEX if resources is SHARED else IndexConfig(("v",), "none", batch_segments=4, compile=True)
    wiring = Wiring(config, RECIPE, resources, together)
    files = [rows_table([{"uri": uri, "fingerprint": "f"}], FILES) for uri in LENGTHS]
    blocks: list[pa.Table] = []
    with ModelHosts(resources) as hosts:
        queue = RemoteFileQueue(POSITIONS, hosts.run_actor)
        queue.admit()
        queue.offer(files[0])
        surveyed = surveying(wiring, queue, POSITIONS)
        made = indexing(surveyed, wiring, hosts, "none", pa.schema([]), expected=1)
        for block in hosts.watched(received(made)):
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


@ON_RAY
@pytest.mark.usefixtures("doubles")
def test_an_error_in_an_operator_fails_its_rows_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, **_: Any) -> None:
            pass

        def __call__(self, rows: pa.Table) -> pa.Table:
            raise KeyError("no such column")

    monkeypatch.setattr(graph, "ENCODER", Broken)
    videos = [video_at(f"/videos/{number}.mp4", duration_s=1.0) for number in range(5)]
    rows = [
        Carried(video, span, None)
        for video in videos
        for span in segments_of(video, RECIPE.recipe_id, RECIPE.segment_s, 1.0)
    ]
    with ModelHosts(SHARED) as hosts:
        made = indexing(planned_before(rows), Wiring(INDEX, RECIPE, SHARED), hosts, "none", pa.schema([]))
        blocks = [block for block in hosts.watched(received(made)) if block is not None]
    found = [row for block in blocks for row in carried(block)]
    assert sorted(row.video.uri for row in found if row.video) == [video.uri for video in videos]
    failures = [row.failure for row in found if row.failure]
    assert {(failure.stage, failure.kind) for failure in failures} == {("encode", "KeyError")}
    assert all("test_graph.py:" in failure.message for failure in failures)
    alike = FailFast()
    with pytest.raises(WorkerError, match="in __call__"):
        list(map(alike.see, failures))


@ON_RAY
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("config", [INDEX, AnnotateConfig("none", prompts=(QUESTION,), model="debug")])
def test_replaying_runs_on_gpus(config: IndexConfig | AnnotateConfig) -> None:
    rows = [
        Carried(video_at(f"/videos/{number}.mp4"), None, None).columns()
        | {"segment_ids": ["00" * 12], "prompts": [0]}
        for number in range(5)
    ]
    work = [rows_table(rows[:3], TO_REPLAY), rows_table(rows[3:], TO_REPLAY)]
    with ModelHosts(SHARED) as hosts:
        made = replaying(work, config, ARCHIVE, hosts)
        blocks = [block for block in hosts.watched(received(made)) if block is not None]
    found = [row.video for block in blocks for row in carried(block)]
    assert len({video.uri for video in found if video is not None}) == len(found) == 5


@ON_RAY
@pytest.mark.usefixtures("ray_with_gpus")
def test_a_run_that_shares_a_cluster_is_bound_to_its_part() -> None:
    row = Carried(video_at(), None, None)

    def options(use: ClusterUse) -> Any:
        return planned_before([row], use=use).context.execution_options

    half = options(ClusterUse(share=0.5)).resource_limits
    assert (half.cpu, half.gpu) == (2, 1)
    whole = options(ClusterUse())
    assert whole.resource_limits.gpu > 2
    assert not whole.label_selector
    assert options(ClusterUse(labels=(("zone", "a"),))).label_selector == {"zone": "a"}

    def heard(use: ClusterUse) -> Any:
        config = TranscribeConfig("none", model="debug", cluster=use)
        hosts: Any = SimpleNamespace(route=lambda *_, **__: None, batches=1, sizes=StageSizes())
        spans = [rows_table([row.columns()], PLANNED)]
        return transcribing(spans, config, SHARED, hosts).context.execution_options

    assert heard(ClusterUse(share=0.5)).resource_limits.cpu == 2
    assert heard(ClusterUse(labels=(("zone", "a"),))).label_selector == {"zone": "a"}


def listing(tmp_path: Path, recipe: Recipe, *lengths_s: float) -> tuple[pa.Table, set[str]]:
    """Videos of these lengths as ``FILES``, and the ids of their segments."""
    paths = [
        make_video(tmp_path, VideoSpec(f"{length_s:g}.mp4", rate="16", duration_s=length_s))
        for length_s in lengths_s
    ]
    files = rows_table([{"uri": str(path), "fingerprint": "f"} for path in paths], FILES)
    planned = {
        segment.segment_id
        for row in carried(probe_files(files))
        if row.video is not None
        for segment in segments_of(row.video, recipe.recipe_id, recipe.segment_s, recipe.fps)
    }
    return files, planned


def survey_of(files: pa.Table, wiring: Wiring, archive: Archive, actor: RunActor) -> Dataset:
    """The segments that are to be done, the files having been listed before."""
    positions = positions_for(files.num_rows)
    queue = RemoteFileQueue(positions, actor)
    queue.offer(files)
    queue.close()
    queue.admit()
    return surveying(wiring, queue, positions, committed_ids(archive))


def blocks_of(files: pa.Table, wiring: Wiring, archive: Archive) -> list[pa.Table]:
    """The blocks that come out of the whole wiring."""
    with ModelHosts(wiring.resources) as hosts:
        surveyed = survey_of(files, wiring, archive, hosts.run_actor)
        made = indexing(surveyed, wiring, hosts, archive.uri, archive.schema("memories"))
        return [block for block in hosts.watched(received(made)) if block is not None and block.num_rows]


@ON_RAY
@pytest.mark.usefixtures("ray_with_gpus")
@pytest.mark.parametrize("together", [1, 4])
def test_frames_are_read_where_rays_object_store_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    class Where:
        """In the place of the encoder: says of each segment's frames whether they are in shared memory."""

        def __init__(self, **_: Any) -> None:
            pass

        def __call__(self, rows: pa.Table) -> pa.Table:
            maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
            shared = [
                tuple(int(end, 16) for end in part[0].split("-"))
                for part in maps
                if part[1].endswith("s") and any("plasma" in name for name in part[5:])
            ]
            told = []
            for index in range(rows.num_rows):
                frames = array_at(rows, "frames", index, np.uint8)
                assert frames.shape == (16, 56, 56, 3)
                begin = frames.__array_interface__["data"][0]
                there = any(low <= begin and begin + frames.nbytes <= high for low, high in shared)
                told.append("shared" if there else "copied")
            return pa.table({"told": told})

    class Same:
        def __init__(self, **_: Any) -> None:
            pass

        def __call__(self, rows: pa.Table) -> pa.Table:
            return rows

    monkeypatch.setattr(graph, "ENCODER", Where)
    monkeypatch.setattr(graph, "GENERATOR", Same)
    monkeypatch.setattr(graph, "write_segments", lambda rows, **_: rows)
    # Less than 100 kB would not go through the store.
    config = IndexConfig((str(tmp_path),), "none", model="debug", segment_s=1.0, fps=16.0, batch_segments=4)
    recipe = make_recipe(config, open_models("debug"))
    # Full blocks: of those that are not, batches are put together by copying.
    files, planned = listing(tmp_path, recipe, 9.0, 3.0)
    archive = Archive.create_or_open(str(tmp_path / "archive"), recipe, 32)
    told = [
        text
        for block in blocks_of(files, Wiring(config, recipe, RESOURCES, together), archive)
        for text in block["told"].to_pylist()
    ]
    assert told == ["shared"] * len(planned)


@ON_RAY
@pytest.mark.usefixtures("ray_with_gpus")
def test_segments_that_go_together_are_stored_as_those_that_go_alone(tmp_path: Path) -> None:
    """Ten segments of one video and three of another; those that go alone do so in this process, one by one."""
    config = IndexConfig((str(tmp_path),), "none", model="debug", segment_s=1.0, fps=4.0, batch_segments=4)
    recipe = make_recipe(config, open_models("debug"))
    files, planned = listing(tmp_path, recipe, 10.0, 3.0)
    assert len(planned) == 13

    def stored(name: str, blocks_into: Callable[[Archive], list[pa.Table]]) -> tuple[list[int], list[Any]]:
        archive = Archive.create_or_open(str(tmp_path / name), recipe, 32)
        found = blocks_into(archive)
        archive.commit(Receipt(**text) for block in found for text in block["receipt"].to_pylist())
        assert archive.completed_segments() == planned
        memories = archive.table("memories").to_arrow().drop(["tokens"])
        return sorted(block.num_rows for block in found), memories.sort_by("memory_id").to_pylist()

    def one_by_one(archive: Archive) -> list[pa.Table]:
        stages, wiring = InlineStages(), Wiring(config, recipe, RESOURCES)
        segments = [
            Carried(row.video, segment, None)
            for row in carried(probe_files(files))
            if row.video is not None
            for segment in segments_of(row.video, recipe.recipe_id, recipe.segment_s, recipe.fps)
        ]
        before = stages.planned_before(segments, use=config.cluster, verbose=False)
        made = stages.indexing(
            before, wiring, NoHosts(), archive.uri, archive.schema("memories"), expected=13
        )
        return [block for block in made if block is not None]

    alone, rows_alone = stored("alone", one_by_one)
    together, rows = stored(
        "together", lambda archive: blocks_of(files, Wiring(config, recipe, RESOURCES, 4), archive)
    )
    assert alone == [1] * 13
    # What does not fill a block goes alone or with another, whichever comes first.
    assert together in ([1, 4, 4, 4], [4, 4, 5])
    assert len(rows) == 13 * 4
    assert rows == rows_alone
    # What is stored is not done again.
    with ModelHosts(RESOURCES) as hosts:
        opened = Archive.open(str(tmp_path / "together"))
        left = survey_of(files, Wiring(config, recipe, RESOURCES, 4), opened, hosts.run_actor)
        assert sum(block.num_rows for block in received(left) if block is not None) == 0


@ON_RAY
@pytest.mark.usefixtures("ray_with_gpus")
def test_an_index_of_very_many_vectors_is_built_on_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_indexes, "EXACT_ROWS", 200)
    monkeypatch.setattr(vector_index, "MANY_SLOTS", 200)
    growing = Growing(str(tmp_path / "archive"), seed=8)
    for _ in range(2):
        growing.add(100)
    assert "memories.vectors" in growing.archive.update_indexes(build_pieces=build_on_workers)
    [state] = [each for each in index_states(growing.archive.tables) if each.column == "vectors"]
    assert (state.rows, state.rows_unindexed, len(state.partitions)) == (200, 0, 1)
    assert min(growing.recall()) >= 0.95
    with pytest.raises(WorkerError, match="has no table 'memories'"):
        build_on_workers(str(tmp_path), 1, [[0]], pa.array([[1.0]]))
