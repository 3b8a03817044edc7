"""Runs of the debug model over short videos, with all stages in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.progress import OnProgress

__all__ = ["Clean", "Go", "index_into"]

#: Indexes sources into a test's archive; keywords are fields of ``IndexConfig``, and ``on_progress``.
Go = Callable[..., IndexReport]
#: What one run over these sources stores without mishap, as ``support.archive_contents.contents`` gives it.
Clean = Callable[..., dict[str, Any]]

_OPTIONS = {"model": "debug", "fps": 1.0, "segment_s": 3.0, "bank_length": 2, "max_new_tokens": 3}


def index_into(
    place: str, *sources: Path | str, on_progress: OnProgress | None = None, **changes: object
) -> IndexReport:
    """Index sources into the archive at ``place``."""
    options: dict[str, object] = {"sources": tuple(map(str, sources)), "archive": place, **_OPTIONS}
    return index(IndexConfig(**(options | changes)), on_progress=on_progress)  # type: ignore[arg-type]
