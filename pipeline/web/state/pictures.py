"""A cache of memory slots' thumbnails: reads many at once, for browsers that request them one by one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.web.api.problems import NotThere

__all__ = ["Pictures"]

_KEPT_BYTES = 1 << 26


class Pictures:
    """An LRU cache of JPEGs by memory id. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def fetch(self, reader: ArchiveReader, slots: Iterable[tuple[str, int]]) -> None:
        """Read all thumbnails that are not cached, at once. ``slots`` are pairs (segment id, slot)."""
        with self._lock:
            missing = [slot for slot in dict.fromkeys(slots) if memory_id(*slot) not in self._kept]
        for (segment, slot), picture in reader.slots.thumbnails(missing).items():
            self._keep(memory_id(segment, slot), picture)

    def of_slot(self, reader: ArchiveReader, key: str) -> bytes:
        """A slot's thumbnail. Raises NotThere. Caches those of the whole segment, which a browser requests next."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        segment, _, _ = key.partition("-")
        if not reader.completed_among([segment]):
            raise NotThere("The archive holds no such memory slot.")
        rows = reader.memory_rows([segment], ("memory_id", "thumbnail")).to_pylist()
        found = {row["memory_id"]: row["thumbnail"] for row in rows if row["thumbnail"]}
        for name, picture in found.items():
            self._keep(name, picture)
        if key not in found:
            raise NotThere("The archive holds no picture of that.")
        return found[key]

    def of_video(self, reader: ArchiveReader, video_id: str) -> bytes:
        """A thumbnail from the middle of a video. Raises NotThere."""
        rows = reader.tables.rows(
            "memories", [equals("video_id", video_id)], ["memory_id", "timestamp_s"]
        ).sort_by("timestamp_s")
        if not rows.num_rows:
            raise NotThere("The archive holds no picture of that.")
        return self.of_slot(reader, rows["memory_id"][rows.num_rows // 2].as_py())

    def _keep(self, key: str, picture: bytes) -> None:
        with self._lock:
            self._bytes += len(picture) - len(self._kept.get(key, b""))
            self._kept[key] = picture
            self._kept.move_to_end(key)
            while self._bytes > _KEPT_BYTES:
                _, forgotten = self._kept.popitem(last=False)
                self._bytes -= len(forgotten)
