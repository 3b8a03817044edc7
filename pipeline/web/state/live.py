"""An archive that is written while it is served: readers of the recipe that is in force now."""

from __future__ import annotations

import threading
import time

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.searching.searcher import Searcher

__all__ = ["LiveArchive"]

_LOOKED_EVERY_S = 2.0


class LiveArchive:
    """The archive's reader and searcher. Readers see every commit by themselves; a new recipe needs new ones.

    Safe to use from several threads.
    """

    def __init__(self, uri: str, *, model: str | None = None, retrieval_model: str | None = None) -> None:
        """Raises ArchiveError when there is no archive."""
        self._uri, self._names = uri, (model, retrieval_model)
        self._lock = threading.Lock()
        self._searcher = self._opened(ArchiveReader.open(uri))
        self._looked = time.monotonic()

    @property
    def searcher(self) -> Searcher:
        """The searcher of the recipe in force. Raises ArchiveError when the archive is gone."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOKED_EVERY_S:
                self._look()
            return self._searcher

    @property
    def last_uri(self) -> str:
        """Where the tables of the recipe lie that was found in force last. Looks at nothing."""
        return self._searcher.archive.uri

    def renewed(self, uri: str) -> bool:
        """Whether a recipe is in force whose tables lie elsewhere than at ``uri``: looks at once.

        The tables of the recipe before are deleted when a new one is put in force, so whoever failed at them may try
        again. Raises ArchiveError when the archive is gone.
        """
        with self._lock:
            if self._searcher.archive.uri == uri:
                self._look()
            return self._searcher.archive.uri != uri

    @property
    def reader(self) -> ArchiveReader:
        """The reader of the recipe in force. Raises ArchiveError when the archive is gone."""
        return self.searcher.archive

    def another_searcher(self) -> Searcher:
        """A searcher with models of its own, for another thread."""
        return self._opened(self.reader)

    def _look(self) -> None:
        reader = ArchiveReader.open(self._uri)
        if reader.uri != self._searcher.archive.uri:
            self._searcher = self._opened(reader)
        self._looked = time.monotonic()

    def _opened(self, reader: ArchiveReader) -> Searcher:
        model, retrieval_model = self._names
        return Searcher(reader, model=model, retrieval_model=retrieval_model)
