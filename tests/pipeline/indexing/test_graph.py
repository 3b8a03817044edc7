from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.media import VideoSpec, make_video

from malmm.model.checkpoints.resolve import open_models
from malmm.operators.plan import segments_of
from malmm.operators.probe import probe_files
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing import graph as stages
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.file_queue import RemoteFileQueue, positions_for
from malmm.pipeline.indexing.graph import Wiring, indexing, segments_a_block, surveying
from malmm.pipeline.indexing.index import make_recipe
from malmm.pipeline.indexing.run_loop import committed_ids
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.receipts import Receipt
from malmm.pipeline.schema.rows import FILES, array_at, carried, rows_table

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


def listing(tmp_path: Path, recipe: Recipe) -> tuple[pa.Table, set[str]]:
    """Two videos, of ten seconds and of three, as ``FILES``, and the ids of their segments."""
    paths = [
        make_video(tmp_path, VideoSpec(name, rate="16", duration_s=duration_s))
        for name, duration_s in (("ten.mp4", 10.0), ("three.mp4", 3.0))
    ]
    files = rows_table([{"uri": str(path), "fingerprint": "f"} for path in paths], FILES)
    planned = {
        segment.segment_id
        for row in carried(probe_files(files))
        if row.video is not None
        for segment in segments_of(row.video, recipe.recipe_id, recipe.segment_s, recipe.fps)
    }
    return files, planned


def blocks_of(files: pa.Table, wiring: Wiring, archive: Archive) -> list[pa.Table]:
    """The blocks that come out of the whole wiring, the files having been listed before."""
    positions = positions_for(files.num_rows)
    queue = RemoteFileQueue(positions)
    queue.offer(files)
    queue.close()
    queue.admit()
    surveyed = surveying(wiring, queue, positions, committed_ids(archive))
    dataset = indexing(surveyed, wiring, archive.uri, archive.schema("memories"))
    return [block for block in received(dataset) if block is not None and block.num_rows]


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
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

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(stages, "EncodeSegments", Where)
    monkeypatch.setattr(stages, "GenerateTexts", Same)
    monkeypatch.setattr(stages, "write_segments", lambda rows, **_: rows)
    # Less than 100 kB would not go through the store.
    config = IndexConfig((str(tmp_path),), "none", model="debug", segment_s=1.0, fps=16.0, batch_segments=4)
    recipe = make_recipe(config, open_models("debug"))
    files, planned = listing(tmp_path, recipe)
    archive = Archive.create_or_open(str(tmp_path / "archive"), recipe, 32)
    with connected():
        told = [
            text
            for block in blocks_of(files, Wiring(config, recipe, RESOURCES, together), archive)
            for text in block["told"].to_pylist()
        ]
    assert told == ["shared"] * len(planned)


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
def test_segments_that_go_together_are_stored_as_those_that_go_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten segments of one video and three of another; the stages run on a Ray of their own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = IndexConfig((str(tmp_path),), "none", model="debug", segment_s=1.0, fps=4.0, batch_segments=4)
    recipe = make_recipe(config, open_models("debug"))
    files, planned = listing(tmp_path, recipe)
    assert len(planned) == 13
    stored, blocks = {}, {}
    with connected():
        for together in (1, 4):
            archive = Archive.create_or_open(str(tmp_path / f"archive-{together}"), recipe, 32)
            found = blocks_of(files, Wiring(config, recipe, RESOURCES, together), archive)
            blocks[together] = sorted(block.num_rows for block in found)
            archive.commit(Receipt(**text) for block in found for text in block["receipt"].to_pylist())
            assert archive.completed_segments() == planned
            memories = archive.table("memories").to_arrow().drop(["tokens"])
            stored[together] = memories.sort_by("memory_id").to_pylist()
    assert blocks[1] == [1] * 13
    # What does not fill a block goes alone or with another, whichever comes first.
    assert blocks[4] in ([1, 4, 4, 4], [4, 4, 5])
    assert len(stored[1]) == 13 * 4
    assert stored[1] == stored[4]
