"""An archive that may be reindexed while it is served: always the reader of the recipe in force."""

from __future__ import annotations

import threading
import time

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.searching.searcher import Searcher

__all__ = ["LiveArchive"]

_LOOKED_EVERY_S = 2.0


class LiveArchive:
    """The archive's reader and searcher. They see every commit by themselves, and are replaced for a new recipe.

    Thread-safe.
    """

    def __init__(self, uri: str, *, model: str | None = None, retrieval_model: str | None = None) -> None:
        """Raises ArchiveError if there is no archive."""
        self._uri, self._names = uri, (model, retrieval_model)
        self._lock = threading.Lock()
        self._searcher = self._opened(ArchiveReader.open(uri))
        self._looked = time.monotonic()

    @property
    def searcher(self) -> Searcher:
        """The searcher of the recipe in force. Raises ArchiveError if the archive is gone."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOKED_EVERY_S:
                self._look()
            return self._searcher

    @property
    def last_uri(self) -> str:
        """Address of the tables that were in force at the last look. Reads nothing."""
        return self._searcher.archive.uri

    def renewed(self, uri: str) -> bool:
        """Whether the tables in force are not those at ``uri`` any more. Looks at once.

        Old tables are deleted when a new recipe is put in force, so a request that failed on them may be retried.
        Raises ArchiveError if the archive is gone.
        """
        with self._lock:
            if self._searcher.archive.uri == uri:
                self._look()
            return self._searcher.archive.uri != uri

    @property
    def reader(self) -> ArchiveReader:
        """The reader of the recipe in force. Raises ArchiveError if the archive is gone."""
        return self.searcher.archive

    def another_searcher(self) -> Searcher:
        """A searcher with models of its own, for another thread."""
        return self._opened(self.reader)

    def _look(self) -> None:
        reader = ArchiveReader.open(self._uri)
        known = self._searcher.archive
        # Vectors that were made anew lie where the old ones did.
        if (reader.uri, reader.recipe) != (known.uri, known.recipe):
            self._searcher = self._opened(reader)
        self._looked = time.monotonic()

    def _opened(self, reader: ArchiveReader) -> Searcher:
        model, retrieval_model = self._names
        return Searcher(reader, model=model, retrieval_model=retrieval_model)
