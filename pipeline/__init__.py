"""What flows through an indexing run, in what order, and the archive that it ends in.

The names below load on first use: reading an archive needs neither Ray nor torch, and records, configuration
and errors are leaves that the operators share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from malmm.pipeline.archive.ray_dataset import dataset
    from malmm.pipeline.archive.reader import ArchiveReader
    from malmm.pipeline.archive.writer import Archive
    from malmm.pipeline.indexing.annotate import AnnotateReport, annotate
    from malmm.pipeline.indexing.archive_sink import ArchiveSink
    from malmm.pipeline.indexing.index import index
    from malmm.pipeline.indexing.run_reports import IndexReport
    from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt, Recipe
    from malmm.pipeline.schema.progress import Progress
    from malmm.pipeline.searching.asker import Asker, Reply, ask
    from malmm.pipeline.searching.searcher import Found, Searcher, search

__all__ = [
    "AnnotateConfig",
    "AnnotateReport",
    "Archive",
    "ArchiveReader",
    "ArchiveSink",
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
    "AnnotateConfig": "schema.config",
    "AnnotateReport": "indexing.annotate",
    "Archive": "archive.writer",
    "ArchiveReader": "archive.reader",
    "ArchiveSink": "indexing.archive_sink",
    "Asker": "searching.asker",
    "Found": "searching.searcher",
    "IndexConfig": "schema.config",
    "IndexReport": "indexing.run_reports",
    "Progress": "schema.progress",
    "Prompt": "schema.config",
    "Recipe": "schema.config",
    "Reply": "searching.asker",
    "Searcher": "searching.searcher",
    "annotate": "indexing.annotate",
    "ask": "searching.asker",
    "dataset": "archive.ray_dataset",
    "index": "indexing.index",
    "search": "searching.searcher",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
