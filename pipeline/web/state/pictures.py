"""Thumbnails of memory slots, read many at a time and kept for the browser that asks for them one by one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.web.api.problems import NotThere

__all__ = ["Pictures"]

_KEPT_BYTES = 1 << 26


class Pictures:
    """JPEGs by memory id, the least recently used forgotten first. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def fetch(self, reader: ArchiveReader, slots: Iterable[tuple[str, int]]) -> None:
        """Read those that are not kept, at once; the slots are named by segment and place."""
        with self._lock:
            missing = [slot for slot in dict.fromkeys(slots) if memory_id(*slot) not in self._kept]
        for (segment, slot), picture in reader.slots.thumbnails(missing).items():
            self._keep(memory_id(segment, slot), picture)

    def of_slot(self, reader: ArchiveReader, key: str) -> bytes:
        """One slot's picture. Raises NotThere. A browser that asks for one soon asks for the others of its segment."""
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
        """A picture from the middle of a video. Raises NotThere."""
        dataset = open_dataset(reader.uri, "memories")
        if dataset is None:
            raise ArchiveError(f"{reader.uri} has no table 'memories'", uri=reader.uri)
        with lance_errors(reader.uri, "read table 'memories' of"):
            rows = dataset.to_table(
                columns=["memory_id", "timestamp_s"], filter=equals("video_id", video_id)
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
