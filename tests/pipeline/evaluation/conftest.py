from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.kept_models import models_kept
from support.made_once import made_once
from support.stand_ins import World, draw_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Drawn videos that tests read and never write."""
    return made_once(tmp_path_factory, "stand-ins", draw_world)


@pytest.fixture(scope="package", autouse=True)
def _models_kept() -> Iterator[None]:
    with models_kept():
        yield
