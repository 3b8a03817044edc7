"""Archives of made-up slots that grow and shrink step by step, and how much of the nearest a search finds in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables
from malmm.pipeline.searching.candidates import Candidates
from support.archive_rows import RECIPE, rows

__all__ = ["SIZE", "VECTORS", "Growing"]

VECTORS, SIZE = 4, 16
_LOOKS = 40


class Growing:
    """An archive of segments of slots, whose vectors lie in clusters as those of a video's scenes do."""

    def __init__(self, place: str, *, seed: int) -> None:
        self.archive = Archive.create_or_open(place, RECIPE, SIZE)
        self._chance = np.random.default_rng(seed)
        self._looks = self._chance.standard_normal((_LOOKS, VECTORS, SIZE))
        self._segments: list[str] = []

    def add(self, count: int) -> None:
        """Commit a segment of ``count`` slots, of looks that come up more and more as the archive grows."""
        number = len(self._segments)
        segment = f"{number:024x}"
        known = self._looks[: 5 + 5 * number]
        looks = known[self._chance.integers(len(known), size=count)]
        vectors = _unit(looks + 0.6 * self._chance.standard_normal(looks.shape)).astype(np.float16)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), SIZE)
        columns = {
            "memory_id": pa.array([ids.memory_id(segment, slot) for slot in range(count)]),
            "segment_id": pa.array([segment] * count),
            "slot": pa.array(range(count), pa.int32()),
            "vectors": pa.ListArray.from_arrays(
                pa.array(range(0, (count + 1) * VECTORS, VECTORS), pa.int32()), flat
            ),
            "tokens": pa.array([b""] * count, pa.large_binary()),
        }
        one = rows(0)["memories"].slice(0, 1)
        same = {name: one[name].take([0] * count) for name in one.column_names}
        slots = pa.table(same | columns, schema=tables.memories_schema(SIZE))
        row = rows(0)["segments"].to_pylist()[0] | {"segment_id": segment}
        written = {
            "memories": slots,
            "segments": pa.Table.from_pylist([row], schema=tables.SEGMENTS),
        }
        self.archive.commit(write_rows(self.archive.uri, written))
        self._segments.append(segment)

    def delete(self, number: int) -> None:
        """Delete the slots of the segment that was added so many steps after the first."""
        with self.archive.held():
            for name in ("segments", "memories"):
                self.archive.changes.delete(name, "segment_id", [self._segments[number]])

    def recall(self, queries: int = 8) -> tuple[float, float]:
        """Which share of the ten and of the hundred nearest slots a search finds that asks as the product does."""
        looks = self._looks[self._chance.integers(len(self._looks), size=queries), 0]
        asked = _unit(looks + 0.6 * self._chance.standard_normal(looks.shape)).astype(np.float32)
        candidates = Candidates(self.archive)
        shares = []
        for query in asked:
            exact, found = (
                [(slot.segment_id, slot.slot) for slot in candidates.slots(query, 100, Scope(), exact=way)]
                for way in (True, False)
            )
            shares.append([len({*exact[:k]} & {*found[:k]}) / len(exact[:k]) for k in (10, 100)])
        of_ten, of_hundred = np.mean(shares, axis=0).tolist()
        return of_ten, of_hundred


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
