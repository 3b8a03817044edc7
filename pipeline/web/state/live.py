"""An archive that may be reindexed while it is served: always the reader of the recipe in force."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from malmm.pipeline.archive.joined import members_of, open_archives
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import MalmmError
from malmm.pipeline.searching.searcher import Searcher

__all__ = ["LiveArchive"]

_LOOKED_EVERY_S, _SEVERAL_EVERY_S = 2.0, 10.0


class LiveArchive:
    """The archive's reader and searcher. They see every commit by themselves, and are replaced for a new recipe.

    Several archives are read as one (``archive.catalog``). Whether one of them came, or came back, is looked up by a
    thread, as a store that is away may take long to say so. Thread-safe.
    """

    def __init__(
        self, archives: str | Sequence[str], *, model: str | None = None, retrieval_model: str | None = None
    ) -> None:
        """Raises ArchiveError if there is no archive, and ConfigError as ``open_archives`` does."""
        self._archives = (archives,) if isinstance(archives, str) else tuple(archives)
        self._names = (model, retrieval_model)
        self._lock = threading.Lock()
        self._state: object = None
        self._searcher = self._searching(self._open())
        self._looking: threading.Thread | None = None
        self._looked = time.monotonic()

    @property
    def searcher(self) -> Searcher:
        """The searcher of the recipe in force. Raises ArchiveError if the archive is gone."""
        with self._lock:
            several = members_of(self._searcher.archive) is not None
            if time.monotonic() - self._looked >= (_SEVERAL_EVERY_S if several else _LOOKED_EVERY_S):
                if several:
                    self._look_beside()
                else:
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
        return self._searching(self.reader)

    def _look(self) -> None:
        before = self._state
        reader = self._open()
        # Vectors that were made anew lie where the old ones did.
        if self._state != before:
            self._searcher = self._searching(reader)
        self._looked = time.monotonic()

    def _look_beside(self) -> None:
        if self._looking is None or not self._looking.is_alive():
            self._looking = threading.Thread(target=self._look_quietly, name="archives", daemon=True)
            self._looking.start()

    def _look_quietly(self) -> None:
        """Look for archives again; while none can be read, those that were read stay."""
        with contextlib.suppress(MalmmError):
            self._look()
        self._looked = time.monotonic()

    def _open(self) -> ArchiveReader:
        reader = open_archives(self._archives)
        members = members_of(reader)
        if members is None:
            self._state = (reader.uri, reader.recipe)
        else:
            away = [each.name for each in members.left_out]
            self._state = (reader.uri, [each.reader.recipe for each in members.all], away)
        return reader

    def _searching(self, reader: ArchiveReader) -> Searcher:
        model, retrieval_model = self._names
        return Searcher(reader, model=model, retrieval_model=retrieval_model)
