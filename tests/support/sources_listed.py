"""Sources listed to their end, and what their errors say."""

from __future__ import annotations

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.backends import Patience
from malmm.pipeline.sources.listing import SourceFile, list_sources

__all__ = ["AWAY", "DENIED", "MISSING", "QUICK", "error", "listed", "only", "uris"]

QUICK = Patience(attempts=3, first_pause_s=0.0, longest_pause_s=0.0)
MISSING, DENIED, AWAY = "no such file", "may not be read", "after 3 tries: the server answered"


def listed(*sources: str) -> list[SourceFile | SourceError]:
    return list(list_sources(sources))


def uris(*sources: str) -> list[str]:
    found = listed(*sources)
    assert all(isinstance(item, SourceFile) for item in found), found
    return [item.uri for item in found]


def only(*sources: str) -> SourceFile:
    (found,) = listed(*sources)
    assert isinstance(found, SourceFile), found
    return found


def error(*sources: str) -> str:
    (found,) = listed(*sources)
    assert isinstance(found, SourceError), found
    return found.message
