from __future__ import annotations

from pathlib import Path

import pytest
from support.media import VideoSpec, make_video

from malmm.model.resolve import open_models
from malmm.operators.plan import segments_of
from malmm.operators.probe import probe_files
from malmm.pipeline.cluster import Resources, connected
from malmm.pipeline.config import IndexConfig
from malmm.pipeline.flow import FILES, TO_PLAN, Carried, carried, rows_table
from malmm.pipeline.fragments import Receipt
from malmm.pipeline.indexing import make_recipe
from malmm.pipeline.receiving import received
from malmm.pipeline.stages import data_settings, indexing, segments_a_block
from malmm.pipeline.store import Archive

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


@pytest.mark.filterwarnings("default")  # Ray's of its own settings
def test_segments_that_go_together_are_stored_as_those_that_go_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten segments of one video and three of another; the stages run on a Ray of their own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    paths = [
        make_video(tmp_path, VideoSpec(name, rate="4", duration_s=duration_s))
        for name, duration_s in (("ten.mp4", 10.0), ("three.mp4", 3.0))
    ]
    config = IndexConfig((str(tmp_path),), "none", model="debug", segment_s=1.0, fps=4.0, batch_segments=4)
    models = open_models("debug")
    recipe = make_recipe(config, models)
    files = rows_table([{"uri": str(path), "fingerprint": "f"} for path in paths], FILES)
    videos = [row.video for row in carried(probe_files(files))]
    planned = {
        segment.segment_id
        for video in videos
        if video is not None
        for segment in segments_of(video, recipe.recipe_id, recipe.segment_s, recipe.fps)
    }
    assert len(planned) == 13
    rows = rows_table([Carried(video, None, None).columns() | {"done": []} for video in videos], TO_PLAN)
    stored, blocks = {}, {}
    with connected(), data_settings(verbose=False):
        for together in (1, 4):
            archive = Archive.create_or_open(str(tmp_path / f"archive-{together}"), recipe, 32)
            found = [
                block
                for block in received(indexing(rows, config, recipe, archive, RESOURCES, together))
                if block is not None
            ]
            blocks[together] = sorted(block.num_rows for block in found)
            archive.commit(
                Receipt.from_json(text) for block in found for text in block["receipt"].to_pylist()
            )
            assert archive.completed_segments() == planned
            memories = archive.table("memories").to_arrow().drop(["tokens"])
            stored[together] = memories.sort_by("memory_id").to_pylist()
    assert blocks[1] == [1] * 13
    # Ten are 4, 4 and 2; encoders take what comes until they have as many as they take at once.
    assert sum(blocks[4]) == 13
    assert len(blocks[4]) <= 4
    assert len(stored[1]) == 13 * 4
    assert stored[1] == stored[4]
