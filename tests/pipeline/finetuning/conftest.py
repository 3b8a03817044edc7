from __future__ import annotations

from pathlib import Path

import pytest
from support.drawn_lessons import draw_lessons
from support.made_once import made_once

from malmm.model.checkpoints.debug import save_debug_checkpoint


@pytest.fixture(scope="session")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of questions beside its videos. Read it."""
    return made_once(tmp_path_factory, "lessons", draw_lessons)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny InstructBLIP checkpoint with random weights, without positions. Read it."""
    return made_once(tmp_path_factory, "base", _save)


def _save(folder: Path) -> Path:
    save_debug_checkpoint(folder / "debug")
    return folder / "debug"
