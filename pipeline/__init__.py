"""What flows through an indexing run, in what order, and the archive that it ends in.

The names below load on first use: reading an archive needs neither Ray nor torch, and records, configuration
and errors are leaves that the operators share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from malmm.pipeline.config import IndexConfig, Prompt, Recipe
    from malmm.pipeline.indexing import index
    from malmm.pipeline.reading import ArchiveReader
    from malmm.pipeline.report import IndexReport, Progress
    from malmm.pipeline.store import Archive

__all__ = [
    "Archive",
    "ArchiveReader",
    "IndexConfig",
    "IndexReport",
    "Progress",
    "Prompt",
    "Recipe",
    "index",
]

_HOMES = {
    "Archive": "store",
    "ArchiveReader": "reading",
    "IndexConfig": "config",
    "IndexReport": "report",
    "Progress": "report",
    "Prompt": "config",
    "Recipe": "config",
    "index": "indexing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
