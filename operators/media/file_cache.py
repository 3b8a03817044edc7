"""What readings of the same remote file share: its head and index, or a copy of it."""

from __future__ import annotations

import threading
from collections import OrderedDict

from malmm.operators.media.temporary_copies import WholeFile

__all__ = ["FileCache"]


class FileCache:
    """Ranges read on opening files, at most ``most_bytes`` of them, the least recently used file forgotten first; and
    the last file that was copied whole.

    Whoever reads several spans of a file owns one and hands it to each reading; the sandbox's process does. A file is
    named by its address and its version, so that one that has changed is read anew. Threads may share a cache.
    """

    def __init__(self, most_bytes: int = 1 << 26) -> None:
        self._most_bytes = most_bytes
        self._files: OrderedDict[tuple[str, ...], dict[int, bytes]] = OrderedDict()
        self._bytes = 0
        self._whole: tuple[tuple[str, ...], WholeFile] | None = None
        self._lock = threading.Lock()

    def find(self, file: tuple[str, ...], position: int) -> tuple[int, bytes] | None:
        """The range of the file that holds ``position``: where it begins, and its bytes."""
        with self._lock:
            ranges = self._files.get(file)
            if ranges is None:
                return None
            self._files.move_to_end(file)
            found = ((begin, data) for begin, data in ranges.items() if begin <= position < begin + len(data))
            return next(found, None)

    def add(self, file: tuple[str, ...], begin: int, data: bytes) -> None:
        """Keep a range."""
        with self._lock:
            ranges = self._files.setdefault(file, {})
            self._bytes += len(data) - len(ranges.get(begin, b""))
            ranges[begin] = data
            self._files.move_to_end(file)
            while self._bytes > self._most_bytes and self._files:
                _, forgotten = self._files.popitem(last=False)
                self._bytes -= sum(map(len, forgotten.values()))

    def whole(self, file: tuple[str, ...]) -> WholeFile | None:
        """The copy of the file. If that of another was kept, None, and the other is gone, for disks are small."""
        with self._lock:
            if self._whole is not None and self._whole[0] != file:
                self._whole = None
            return self._whole[1] if self._whole is not None else None

    def keep_whole(self, file: tuple[str, ...], copy: WholeFile) -> None:
        """Keep a copy in the place of the one before."""
        with self._lock:
            self._whole = file, copy
