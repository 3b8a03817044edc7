"""Another retrieval model for an archive that is there: vectors change at one stroke, and nothing else does."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.archive_contents import contents
from support.inline_stages import InlineStages
from support.tiny_towers import VECTOR, save_tiny_tower

from malmm.jobs.cli import main
from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.demo.videos import draw_video
from malmm.model.towers.registry import open_tower, tower_of
from malmm.pipeline.archive import recipes_table
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.vector_tower import Collected
from malmm.pipeline.indexing import reembed as reembedding
from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.reembed import reembed
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.errors import RecipeMismatch
from malmm.pipeline.schema.reembed_config import ReembedConfig
from malmm.pipeline.schema.tables import COLLECTED_VECTORS
from malmm.pipeline.searching.searcher import Searcher
from malmm.pipeline.web.state.live import LiveArchive

PACKED = Path(__file__).parents[2] / "data" / "archive-0.1.tar.gz"


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip")
    save_tiny_tower(directory, "clip")
    return directory


@pytest.fixture
def place(tmp_path: Path) -> str:
    with tarfile.open(PACKED) as packed:
        packed.extractall(tmp_path, filter="data")
    return str(tmp_path / "archive")


def vectors_of(place: str) -> dict[str, np.ndarray]:
    rows = ArchiveReader.open(place).tables.rows("memories", columns=["memory_id", "vectors"]).to_pylist()
    return {row["memory_id"]: np.asarray(row["vectors"], np.float32) for row in rows}


def all_but_vectors(place: str) -> dict[str, Any]:
    found = contents(ArchiveReader.open(place))
    return {
        name: {
            key: {column: value for column, value in row.items() if column != "vectors"}
            if isinstance(row, dict)
            else row
            for key, row in rows.items()
        }
        for name, rows in found.items()
    }


def test_an_archive_of_0_1_gets_a_dual_encoder_and_its_own_vectors_back(
    place: str,
    tower: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, rows = vectors_of(place), all_but_vectors(place)
    recipe = ArchiveReader.open(place).recipe
    live = LiveArchive(place)
    assert main(["reembed", "--archive", place, "--retrieval-model", str(tower), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["segments"], told["resumed"], told["without"]) == ({"thumbnails": 6}, 0, 0)

    reader = ArchiveReader.open(place)
    assert (reader.recipe.recipe_id, reader.recipe.fps) == (recipe.recipe_id, recipe.fps)
    assert reader.recipe.retrieval_fingerprint == open_tower(str(tower)).fingerprint()
    assert reader.recipe.tower_id != recipe.tower_id
    assert all_but_vectors(place) == rows
    pictures: Any = tower_of(open_tower(str(tower))).load_pictures(
        open_tower(str(tower)), model=lambda: open_tower(str(tower))
    )
    stored = vectors_of(place)
    assert stored.keys() == first.keys()
    for row in reader.tables.rows("memories", columns=["memory_id", "thumbnail"]).to_pylist():
        picture = np.array(Image.open(io.BytesIO(row["thumbnail"])).convert("RGB"))
        np.testing.assert_allclose(stored[row["memory_id"]], pictures.of_picture(picture), rtol=0, atol=2e-3)
    assert Searcher(place).search("a red circle", signals=("vectors",))
    live._look()
    assert live.reader.recipe == reader.recipe
    # What takes these vectors for those of the first retrieval model has to refuse them.
    formats = {row["format"] for row in recipes_table._rows(place)}
    assert max(formats) == 3

    draw_video(tmp_path / "more.mp4", seconds=12.0, seed=(1, 3))
    InlineStages().install(monkeypatch)
    more: dict[str, Any] = {"segment_s": 10.0, "bank_length": 6}
    config = IndexConfig((str(tmp_path / "more.mp4"),), place, retrieval_model=str(tower), **more)
    indexed = index(config)
    assert indexed.segments_indexed == 2
    assert index(config).videos_unchanged == 1
    assert {vectors.shape for vectors in vectors_of(place).values()} == {(1, VECTOR)}
    # A run that names no model takes the archive's, and one that names another tower is refused.
    assert index(IndexConfig((str(tmp_path / "more.mp4"),), place, **more)).videos_unchanged == 1
    with pytest.raises(RecipeMismatch, match=r"--retrieval-model \S+ stored, \S+ asked"):
        index(IndexConfig((str(tmp_path / "more.mp4"),), place, model="demo", **more))

    report = reembed(ReembedConfig(place, "demo"))
    assert report.segments == {"tokens": 8}
    again = vectors_of(place)
    for key, vectors in first.items():
        np.testing.assert_allclose(again[key], vectors, rtol=0, atol=5e-3)
    assert ArchiveReader.open(place).recipe.recipe_id == recipe.recipe_id
    assert not reembed(ReembedConfig(place, "demo")).segments


def test_old_vectors_are_searched_until_all_are_there_and_a_stopped_run_goes_on(
    place: str, tower: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding, "_TOGETHER", 2)
    first, add = vectors_of(place), Collected.add
    calls = []

    def stopped(self: Collected, segments: Sequence[Any]) -> None:
        calls.append(len(segments))
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(self, segments)

    with monkeypatch.context() as patch:
        patch.setattr(Collected, "add", stopped)
        with pytest.raises(KeyboardInterrupt):
            reembed(ReembedConfig(place, str(tower)))
    np.testing.assert_equal(vectors_of(place), first)
    assert Searcher(place).search("a yellow square", k=1)[0].uri == "/videos/1.mp4"
    report = reembed(ReembedConfig(place, str(tower)))
    assert (report.segments, report.resumed) == ({"thumbnails": 4}, 2)
    assert {vectors.shape for vectors in vectors_of(place).values()} == {(1, VECTOR)}
    names = ArchiveReader.open(place).schema("memories").names
    assert [name for name in names if "vectors" in name] == ["vectors"]
    assert ArchiveReader.open(place).tables.dataset(COLLECTED_VECTORS).count_rows() == 0


def test_what_cannot_be_is_one_sentence(place: str, tower: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="reads pictures and not stored tokens: --from thumbnails"):
        reembed(ReembedConfig(place, str(tower), source="tokens"))
    with pytest.raises(CheckpointError, match="reads stored tokens and not frames: leave out --from"):
        reembed(ReembedConfig(place, "debug", source="frames"))
    with pytest.raises(CheckpointError, match="has another image encoder"):
        reembed(ReembedConfig(place, "debug"))
    # Without its videos, frames are those of the thumbnails.
    assert reembed(ReembedConfig(place, str(tower), source="frames")).segments == {"thumbnails": 6}
