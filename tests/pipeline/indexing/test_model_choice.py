"""The model of a run that names none: chosen by what workers have, downloaded once, kept by the archive."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support import hub
from support.inline_stages import InlineStages
from support.models import edit_json
from support.tiny_families import save_tiny
from support.tiny_towers import save_tiny_tower

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import PUBLISHED_RETRIEVAL, demo_checkpoint
from malmm.model.demo.videos import draw_video
from malmm.model.published.catalogue import catalogue
from malmm.model.published.choice import choose
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.cluster.equipment import this_machine
from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.model_choice import CHOSEN_TOWER, chosen_model
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.errors import ConfigError, RecipeMismatch
from malmm.pipeline.schema.progress import Progress

OPTIONS = {"segment_s": 5.0, "fps": 1.0, "bank_length": 3, "max_new_tokens": 2}


def test_it_is_downloaded_once_with_licence_and_size_and_then_the_archives_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    InlineStages().install(monkeypatch)
    save_tiny(tmp_path / "tiny", "smolvlm")
    (tmp_path / "tiny" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    save_tiny_tower(tmp_path / "tower", "siglip2")
    videos = tmp_path / "videos"
    videos.mkdir()
    draw_video(videos / "a.mp4", seconds=6.0, seed=(5, 1))
    machine = this_machine()
    name = choose(ram_bytes=machine.ram_bytes, gpu_bytes=machine.gpu_bytes).name
    place = str(tmp_path / "archive")
    config = IndexConfig((str(videos),), place, **OPTIONS)  # type: ignore[arg-type]
    told: list[Progress] = []
    repositories = {model.name: {"main": tmp_path / "tiny"} for model in catalogue()}
    with hub.running(repositories | {CHOSEN_TOWER: {"main": tmp_path / "tower"}}) as served:
        served.use(monkeypatch, tmp_path / "cache")
        report = index(config, on_progress=told.append)
        asked = len(served.asked)
        draw_video(videos / "b.mp4", seconds=6.0, seed=(5, 2))
        again = index(config, on_progress=told.append)
        assert len(served.asked) == asked
        commit = served.commit(tmp_path / "tiny")
        tower = f"{CHOSEN_TOWER}@{served.commit(tmp_path / 'tower')}"
    assert (report.exit_code, again.exit_code, again.videos_indexed) == (0, 0, 1)
    assert report.choice.startswith(f"{name} and {CHOSEN_TOWER} for search was chosen for workers with ")
    assert again.choice == ""

    stages = [progress.stage for progress in told]
    downloading = [progress for progress in told if progress.stage == "downloading"]
    assert stages.index("choosing") < stages.index("downloading") < stages.index("starting")
    for repository, folder in ((name, "tiny"), (CHOSEN_TOWER, "tower")):
        of_one = [progress for progress in downloading if f" {repository} at " in progress.note]
        assert re.search(r" at revision \w{12}: [\d.]+ MB, licence apache-2.0$", of_one[0].note)
        paths = [path for path in (tmp_path / folder).rglob("*") if path.is_file() and path.suffix != ".md"]
        size = sum(path.stat().st_size for path in paths)
        assert (of_one[0].bytes_total, of_one[0].lasting, of_one[-1].bytes_done) == (size, True, size)
    # What is kept names these files for ever, and is found without a hub.
    recipe = ArchiveReader.open(place).recipe
    assert (recipe.model, report.model, again.model) == (f"{name}@{commit}",) * 3
    assert recipe.retrieval_model == tower
    draw_video(videos / "c.mp4", seconds=6.0, seed=(5, 3))
    assert index(config).videos_indexed == 1


def test_without_hub_and_cache_it_is_one_sentence_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    draw_video(tmp_path / "a.mp4", seconds=3.0, seed=(5, 1))
    with hub.running({}) as served:
        served.use(monkeypatch, tmp_path / "cache")
    with pytest.raises(CheckpointError) as caught:
        index(IndexConfig((str(tmp_path / "a.mp4"),), str(tmp_path / "archive")))
    said = str(caught.value)
    assert "could not be fetched from the hub" in said
    assert "give a directory" in said
    assert "--model demo" in said
    assert "\n" not in said
    assert not (tmp_path / "archive").exists()


def test_an_archive_of_a_model_that_is_gone_says_where_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InlineStages().install(monkeypatch)
    save_tiny(tmp_path / "tiny", "smolvlm")
    draw_video(tmp_path / "a.mp4", seconds=3.0, seed=(5, 1))
    place = str(tmp_path / "archive")
    sources = (str(tmp_path / "a.mp4"),)
    given = IndexConfig(sources, place, model=str(tmp_path / "tiny"), **OPTIONS)  # type: ignore[arg-type]
    assert index(given).exit_code == 0
    own = IndexConfig(sources, place, **OPTIONS)  # type: ignore[arg-type]
    assert (index(own).videos_unchanged, index(own).choice) == (1, "")
    (tmp_path / "tiny").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no such directory"):
        index(own)
    moved = IndexConfig(sources, place, model=str(tmp_path / "elsewhere"), **OPTIONS)  # type: ignore[arg-type]
    assert index(moved).videos_unchanged == 1


def test_a_system_text_is_part_of_the_recipe_and_changes_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InlineStages().install(monkeypatch)
    save_tiny(tmp_path / "tiny", "qwen3_vl")
    draw_video(tmp_path / "a.mp4", seconds=3.0, seed=(5, 1))
    said: list[list[str]] = []
    for system in ("", "Answer in one sentence."):
        place = str(tmp_path / f"archive-{len(said)}")
        config = IndexConfig(
            (str(tmp_path / "a.mp4"),),
            place,
            model=str(tmp_path / "tiny"),
            texts=TextSettings(system=system),
            **(OPTIONS | {"max_new_tokens": 12}),  # type: ignore[arg-type]
        )
        assert index(config).exit_code == 0
        archive = ArchiveReader.open(place)
        assert TextSettings.from_text(archive.recipe.decoding).system == system
        said.append([row["text"] for row in archive.annotations().to_pylist() if row["segment_id"]])
    assert said[0] != said[1]
    with pytest.raises(RecipeMismatch, match=r"Answer in one sentence\."):
        index(replace(config, texts=TextSettings()))
    with pytest.raises(ConfigError, match=r"--system 'x': InstructBLIP takes no system text"):
        index(replace(config, archive=f"{place}-2", model="debug", texts=TextSettings(system="x")))


@pytest.mark.parametrize("named", [False, True])
def test_the_retrieval_model_of_a_named_model_is_announced_before_it_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """The published one of an InstructBLIP with the published image encoder, or the one that is named."""
    model = tmp_path / "model"
    shutil.copytree(demo_checkpoint(), model, ignore=shutil.ignore_patterns("retrieval"))
    edit_json(model / "config.json", lambda config: config["vision_config"].update(hidden_size=1408))
    save_tiny_tower(tmp_path / "tower", "siglip2")
    (tmp_path / "tower" / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    name = "owner/tower" if named else PUBLISHED_RETRIEVAL
    config = IndexConfig(("x",), str(tmp_path / "archive"), model=str(model))
    config = replace(config, retrieval_model=name) if named else config
    told: list[Progress] = []
    with hub.running({name: {"main": tmp_path / "tower"}}) as served:
        served.use(monkeypatch, tmp_path / "cache")
        assert chosen_model(config, told.append).config == config
        asked = len(served.asked)
        notes = list(told)
        chosen_model(config, told.append)
        assert not [path for path in served.asked[asked:] if "safetensors" in path]
    assert told == notes
    commit = served.commit(tmp_path / "tower")[:12]
    size = sum(path.stat().st_size for path in (tmp_path / "tower").glob("*.[js]*"))
    assert {note.note for note in notes} == {
        f"downloading {name} at revision {commit}: {size / 1e6:.1f} MB, licence bsd-3-clause"
    }
    assert notes[0].lasting
