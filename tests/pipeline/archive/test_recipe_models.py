from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from support.models import edit_weights

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import demo_checkpoint, open_models
from malmm.pipeline.archive.recipe_models import archive_models
from malmm.pipeline.indexing.index import make_recipe
from malmm.pipeline.schema.config import IndexConfig, Recipe


@pytest.fixture
def recipe() -> Recipe:
    return make_recipe(IndexConfig(("x",), "x", model="demo"), open_models("demo"))


def test_models_are_found_where_they_were(recipe: Recipe) -> None:
    found = archive_models(recipe)
    assert found.instructblip.fingerprint() == recipe.model_fingerprint
    assert found.retrieval is not None
    assert found.retrieval.fingerprint() == recipe.retrieval_fingerprint


def test_the_companion_of_another_machine_is_found_in_the_models_folder(recipe: Recipe) -> None:
    elsewhere = dataclasses.replace(recipe, retrieval_model="/another/machine/retrieval")
    assert archive_models(elsewhere).retrieval is not None


def test_models_that_were_moved_are_found_where_they_are_said_to_be(recipe: Recipe, tmp_path: Path) -> None:
    shutil.copytree(demo_checkpoint(), tmp_path / "moved")
    gone = dataclasses.replace(recipe, model="/gone", retrieval_model="/gone/retrieval")
    with pytest.raises(CheckpointError, match="give its path or id with --model"):
        archive_models(gone)
    found = archive_models(gone, str(tmp_path / "moved"))
    assert found.instructblip.fingerprint() == recipe.model_fingerprint
    assert archive_models(gone, "demo", str(tmp_path / "moved" / "retrieval")).retrieval is not None


@pytest.mark.parametrize("part", [".", "retrieval"])
def test_other_weights_are_refused(recipe: Recipe, tmp_path: Path, part: str) -> None:
    shutil.copytree(demo_checkpoint(), tmp_path / "other")
    edit_weights(
        tmp_path / "other" / part, lambda tensors: tensors.update(query_tokens=tensors["query_tokens"] + 1)
    )
    with pytest.raises(CheckpointError, match="other weights than when the archive was made"):
        archive_models(recipe, str(tmp_path / "other"), str(tmp_path / "other" / "retrieval"))


def test_an_archive_without_vectors_needs_no_companion(recipe: Recipe) -> None:
    plain = dataclasses.replace(recipe, retrieval_model="none", retrieval_fingerprint="none")
    assert archive_models(plain).retrieval is None
