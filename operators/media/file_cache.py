"""Cache of remote files across several reads of one file: its header and index, or a copy of it."""

from __future__ import annotations

import threading
from collections import OrderedDict

from malmm.operators.media.temporary_copies import WholeFile

__all__ = ["FileCache"]


class FileCache:
    """An LRU cache of the ranges that are read when files are opened, at most ``most_bytes``, and of the last file that
    was copied whole.

    The caller that reads several spans of a file owns a cache and passes it to each read, as the sandbox's process
    does. A file's key is its URI and version, so that a changed file is read again. Thread-safe.
    """

    def __init__(self, most_bytes: int = 1 << 26) -> None:
        self._most_bytes = most_bytes
        self._files: OrderedDict[tuple[str, ...], dict[int, bytes]] = OrderedDict()
        self._bytes = 0
        self._whole: tuple[tuple[str, ...], WholeFile] | None = None
        self._lock = threading.Lock()

    def find(self, file: tuple[str, ...], position: int) -> tuple[int, bytes] | None:
        """The cached range that contains ``position``: (begin, bytes); None if there is none."""
        with self._lock:
            ranges = self._files.get(file)
            if ranges is None:
                return None
            self._files.move_to_end(file)
            found = ((begin, data) for begin, data in ranges.items() if begin <= position < begin + len(data))
            return next(found, None)

    def add(self, file: tuple[str, ...], begin: int, data: bytes) -> None:
        """Add a range."""
        with self._lock:
            ranges = self._files.setdefault(file, {})
            self._bytes += len(data) - len(ranges.get(begin, b""))
            ranges[begin] = data
            self._files.move_to_end(file)
            while self._bytes > self._most_bytes and self._files:
                _, forgotten = self._files.popitem(last=False)
                self._bytes -= sum(map(len, forgotten.values()))

    def whole(self, file: tuple[str, ...]) -> WholeFile | None:
        """The cached copy of the file, or None. Drops the copy of another file, to save disk space."""
        with self._lock:
            if self._whole is not None and self._whole[0] != file:
                self._whole = None
            return self._whole[1] if self._whole is not None else None

    def keep_whole(self, file: tuple[str, ...], copy: WholeFile) -> None:
        """Cache a copy, replacing the one before."""
        with self._lock:
            self._whole = file, copy
