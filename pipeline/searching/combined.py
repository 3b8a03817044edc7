"""Queries of several parts: words, pictures and moments together, and words to avoid.

Each part is compared with a slot by itself, by cosine. Cosines of words and of pictures have different scales, so each
is measured against the part's own cosines with a sample of the archive's slots: by how many standard deviations a slot
stands out from their mean. A slot's score is the mean of the wanted parts' deviations, minus ``ALPHA`` times the
largest deviation, if above zero, of the parts that it should not fit. It is then put on the scale of the first part, so
that it is a cosine again: for a query of one part that very cosine. So the threshold for relevance of the first part
holds.

With one vector a slot this is like the vector of the words minus a part of that of the others. With several vectors a
slot it differs, as each part may be nearest to another of them. docs/retrieval.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.searching.fusion import Slot

__all__ = ["ALPHA", "Combination", "Part"]

ALPHA = 0.5
"""What the parts that a slot should not fit count against those that it should."""
_SAMPLE, _FEWEST = 256, 20


@dataclass(frozen=True)
class Part:
    """A part of a query: its unit vectors [V] or [Q, V], its name, and whether slots should differ from it."""

    name: str
    vectors: np.ndarray
    is_wanted: bool = True

    def cosines(self, vectors: np.ndarray) -> np.ndarray:
        """Its cosines [B] with slots of unit vectors [B, S, V]: the nearest of a slot's, averaged over its own."""
        asked = np.atleast_2d(self.vectors).astype(np.float32)
        return (vectors @ asked.T).max(axis=1).mean(axis=1)


@dataclass(frozen=True)
class Combination:
    """Scores slots of an archive by a query of several ``parts``; the first one is wanted, and gives the scale.

    ``sample`` are unit vectors [B, S, V] of slots of the archive.
    """

    parts: tuple[Part, ...]
    sample: np.ndarray

    @classmethod
    def of(cls, archive: ArchiveReader, parts: Iterable[Part]) -> Combination:
        """A combination in an archive, with a sample of its slots."""
        return cls(tuple(parts), _unit(archive.slots.sampled_vectors(_SAMPLE)))

    def nearest(self, find: Callable[[np.ndarray], Sequence[Slot]]) -> list[Slot]:
        """The slots that ``find`` finds for each part that is wanted, each once."""
        found: dict[tuple[str, int], Slot] = {}
        for part in self.parts:
            if part.is_wanted:
                for slot in find(part.vectors):
                    found.setdefault((slot.segment_id, slot.slot), slot)
        return list(found.values())

    def rescored(self, archive: ArchiveReader, slots: Sequence[Slot]) -> list[Slot]:
        """The slots with the combined score as their similarity, best first, and each part's own in ``parts``.

        Slots that were not compared, or have no vectors, stay as they are, after the others.
        """
        keys = {memory_id(slot.segment_id, slot.slot): slot for slot in slots if slot.similarity is not None}
        columns = ["segment_id", "slot", "vectors"]
        rows = archive.tables.rows("memories", is_in("memory_id", keys), columns).to_pylist()
        vectors = {
            memory_id(row["segment_id"], row["slot"]): row["vectors"] for row in rows if row["vectors"]
        }
        compared = [key for key in keys if key in vectors]
        others = [slot for slot in slots if slot.similarity is None]
        if not compared:
            return others
        scored = []
        cosines = np.stack([self._cosines(part, [vectors[key] for key in compared]) for part in self.parts])
        for key, score, own in zip(compared, self.scores(cosines), cosines.T.tolist(), strict=True):
            parts = tuple(zip([part.name for part in self.parts], own, strict=True))
            scored.append(replace(keys[key], similarity=float(score), parts=parts))
        scored.sort(key=lambda slot: (-(slot.similarity or 0.0), slot.video_id, slot.start_s, slot.slot))
        return [*scored, *others]

    def scores(self, cosines: np.ndarray) -> np.ndarray:
        """Combined scores [B] of slots by the cosines [P, B] of the parts."""
        levels = [self._level(part) for part in self.parts]
        deviations = np.stack(
            [(own - mean) / spread for own, (mean, spread) in zip(cosines, levels, strict=True)]
        )
        wanted = np.array([part.is_wanted for part in self.parts])
        score = deviations[wanted].mean(axis=0)
        if not wanted.all():
            score = score - ALPHA * np.maximum(deviations[~wanted].max(axis=0), 0.0)
        mean, spread = levels[0]
        return mean + spread * score

    def _level(self, part: Part) -> tuple[float, float]:
        """Mean and standard deviation of a part's cosines with the sample; 0 and 1 where there are too few slots."""
        if len(self.sample) < _FEWEST:
            return 0.0, 1.0
        cosines = part.cosines(self.sample)
        return float(cosines.mean()), max(float(cosines.std()), 1e-6)

    def _cosines(self, part: Part, vectors: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
        """Cosines [B] with slots, which may have different numbers of vectors."""
        return np.array([part.cosines(_unit(np.asarray([own], np.float32)))[0] for own in vectors])


def _unit(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=-1, keepdims=True), 1e-12)
