"""An archive for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE

from malmm.pipeline.archive.writer import Archive


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive without a row."""
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
