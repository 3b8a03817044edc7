"""What flows through an indexing run, in what order, and the archive that it ends in.

The names below load on first use: reading an archive needs neither Ray nor torch, and records, configuration
and errors are leaves that the operators share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from malmm.pipeline.annotating import AnnotateReport, annotate
    from malmm.pipeline.asking import Asker, Reply, ask
    from malmm.pipeline.config import AnnotateConfig, IndexConfig, Prompt, Recipe
    from malmm.pipeline.datasets import dataset
    from malmm.pipeline.indexing import index
    from malmm.pipeline.reading import ArchiveReader
    from malmm.pipeline.report import IndexReport, Progress
    from malmm.pipeline.searching import Found, Searcher, search
    from malmm.pipeline.store import Archive

__all__ = [
    "AnnotateConfig",
    "AnnotateReport",
    "Archive",
    "ArchiveReader",
    "Asker",
    "Found",
    "IndexConfig",
    "IndexReport",
    "Progress",
    "Prompt",
    "Recipe",
    "Reply",
    "Searcher",
    "annotate",
    "ask",
    "dataset",
    "index",
    "search",
]

_HOMES = {
    "AnnotateConfig": "config",
    "AnnotateReport": "annotating",
    "Archive": "store",
    "ArchiveReader": "reading",
    "Asker": "asking",
    "Found": "searching",
    "IndexConfig": "config",
    "IndexReport": "report",
    "Progress": "report",
    "Prompt": "config",
    "Recipe": "config",
    "Reply": "asking",
    "Searcher": "searching",
    "annotate": "annotating",
    "ask": "asking",
    "dataset": "datasets",
    "index": "indexing",
    "search": "searching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
