from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.models import random_table, with_table

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.debug import save_debug_checkpoint
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel

KINDS = ("decoder", "encoder-decoder")


@pytest.fixture(scope="session")
def checkpoint_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make debug-size checkpoints, each kind and seed once. Read them; copy them to change them."""
    made: dict[tuple[str, int], Path] = {}

    def make(kind: str = "decoder", seed: int = 0) -> Path:
        if (kind, seed) not in made:
            directory = tmp_path_factory.mktemp(f"{kind}-{seed}")
            save_debug_checkpoint(directory, kind=kind, seed=seed)
            made[kind, seed] = directory
        return made[kind, seed]

    return make


@pytest.fixture(scope="session")
def opened(checkpoint_directory: Callable[..., Path]) -> Callable[..., Checkpoint]:
    def open_one(kind: str = "decoder", seed: int = 0) -> Checkpoint:
        return Checkpoint.open(str(checkpoint_directory(kind, seed)), model_types=("instructblip",))

    return open_one


@pytest.fixture
def copied(checkpoint_directory: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint of the test's own, to break."""

    def copy(kind: str = "decoder", name: str = "checkpoint") -> Path:
        return Path(shutil.copytree(checkpoint_directory(kind), tmp_path / name))

    return copy


@pytest.fixture(scope="session")
def encoder(opened: Callable[..., Checkpoint]) -> Encoder:
    return Encoder.load(opened())


@pytest.fixture(scope="session")
def exact_encoder(opened: Callable[..., Checkpoint]) -> Encoder:
    """In float64, where rounding cannot hide a mistake."""
    return Encoder.load(opened()).double()


@pytest.fixture(scope="session")
def placing_encoder(exact_encoder: Encoder) -> Encoder:
    """In float64, with positions that matter."""
    return with_table(exact_encoder, random_table(5, 4, exact_encoder.qformer.visual_channels))


@pytest.fixture(scope="session", params=KINDS)
def language(request: pytest.FixtureRequest, opened: Callable[..., Checkpoint]) -> LanguageModel:
    return LanguageModel.load(opened(request.param))


@pytest.fixture(scope="session")
def languages(opened: Callable[..., Checkpoint]) -> dict[str, LanguageModel]:
    return {kind: LanguageModel.load(opened(kind)) for kind in KINDS}
