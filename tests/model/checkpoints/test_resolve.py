from __future__ import annotations

import shutil

import pytest
from support.models import edit_json

from malmm.model.checkpoints import resolve
from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import DEBUG_NOTICE, open_models


@pytest.fixture
def hub(monkeypatch, checkpoint_directory):
    """A hub that holds the published companion only."""
    asked = []
    companion = checkpoint_directory() / "retrieval"

    def download(name, **options):
        asked.append(name)
        if name != resolve.PUBLISHED_RETRIEVAL:
            raise OSError("no such repository\nand more about it")
        return str(companion)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


def test_debug_comes_with_its_companion_and_a_notice(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    models = open_models("debug")
    assert models.notice == DEBUG_NOTICE
    assert models.retrieval.directory == models.instructblip.directory / "retrieval"
    assert open_models("debug", "none").retrieval is None


def test_a_directory_has_no_notice_and_its_own_companion(checkpoint_directory):
    directory = checkpoint_directory()
    models = open_models(str(directory))
    assert models.notice is None
    assert models.instructblip.directory == directory
    assert models.retrieval.directory == directory / "retrieval"


def test_a_named_companion_goes_before_its_own(copied, checkpoint_directory):
    directory = copied()
    other = checkpoint_directory("encoder-decoder") / "retrieval"
    assert open_models(str(directory), str(other)).retrieval.directory == other
    assert open_models(str(directory), "none").retrieval is None


def test_the_debug_companion_can_be_named(copied, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    retrieval = open_models(str(copied()), "debug").retrieval
    assert retrieval.directory.is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize("stated", [True, False])
def test_published_image_encoders_have_the_published_companion(copied, hub, stated):
    directory = copied()
    shutil.rmtree(directory / "retrieval")

    def publish(config):
        config["vision_config"]["hidden_size"] = 1408
        if not stated:  # published configurations leave out what is transformers' default
            del config["vision_config"]["hidden_size"]

    edit_json(directory / "config.json", publish)
    assert open_models(str(directory)).retrieval.name == resolve.PUBLISHED_RETRIEVAL
    assert hub == [resolve.PUBLISHED_RETRIEVAL]
    assert open_models(str(directory), "none").retrieval is None
    assert len(hub) == 1


def test_without_a_companion_the_way_out_is_named(copied, hub):
    directory = copied()
    shutil.rmtree(directory / "retrieval")
    with pytest.raises(CheckpointError, match=r"no retrieval companion.*--retrieval-model.*'none'"):
        open_models(str(directory))
    with pytest.raises(
        CheckpointError, match=r"'owner/name'.*fetched from the hub: no such repository; give"
    ):
        open_models(str(directory), "owner/name")
    assert hub == ["owner/name"]


def test_models_of_another_type_are_refused(checkpoint_directory):
    directory = checkpoint_directory()
    with pytest.raises(CheckpointError, match="is of type 'blip-2', which no model family covers"):
        open_models(str(directory / "retrieval"))
    with pytest.raises(CheckpointError, match="is of type 'instructblip', which no tower covers"):
        open_models(str(directory), str(directory))


@pytest.mark.parametrize("part", ["vision_config", "qformer_config", "text_config"])
def test_a_configuration_without_a_part_is_refused(copied, part):
    directory = copied()
    edit_json(directory / "config.json", lambda config: config.pop(part))
    with pytest.raises(CheckpointError, match=f"has no {part}"):
        open_models(str(directory))
