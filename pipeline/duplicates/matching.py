"""Find the slots of different videos that are mutually nearest, by a matrix product in blocks.

Neighbours in a video are alike, so that one copy makes dozens of diagonals of similar pairs. Only pairs that are
nearest in both directions are kept: the nearest of the other video to one slot, and that slot of its video to the
other. Pure functions over arrays; the vectors may lie in a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Pairs", "common_slots", "mutual_pairs"]

# A block of 2048 x 2048 similarities takes 16 MiB. Blocks on the diagonal cost most, so smaller ones are faster.
_BLOCK = 2048
# Pairs that wait until those beaten by others are dropped.
_WAITING = 4_000_000
# From this share of alike pairs in a block on, only the best of each video are looked at.
_DENSE = 0.01


@dataclass(frozen=True)
class Pairs:
    """Pairs of slots: row numbers ``first`` < ``second`` int64 [P], and their cosines float32 [P]."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def of(self, chosen: np.ndarray) -> Pairs:
        """The pairs at these places, or where a mask is true."""
        return Pairs(self.first[chosen], self.second[chosen], self.similarity[chosen])


def mutual_pairs(
    vectors_NV: np.ndarray,
    video: np.ndarray,
    middle_s: np.ndarray,
    *,
    least: float,
    apart_s: float,
    left_out: np.ndarray | None = None,
    block: int = _BLOCK,
) -> Pairs:
    """Pairs of slots that are each the nearest of its video to the other, with a cosine of ``least`` or more.

    ``vectors_NV`` are unit vectors of any float type, ``video`` int [N] numbers of videos in ascending order, and
    ``middle_s`` [N] the slots' times. A pair within one video counts only if it is ``apart_s`` seconds apart. Slots of
    the mask ``left_out`` bool [N] have no pairs. Holds two blocks of vectors, one of similarities, and the best pairs
    so far.
    """
    there = np.arange(len(video)) if left_out is None else np.flatnonzero(~left_out)
    forth, back = _Nearest(video), _Nearest(video)
    for right in range(0, len(there), block):
        columns = there[right : right + block]
        vectors_CV = np.asarray(vectors_NV[columns], np.float32)
        for left in range(0, right + 1, block):
            rows = there[left : left + block]
            vectors_RV = vectors_CV if left == right else np.asarray(vectors_NV[rows], np.float32)
            similar_RC = vectors_RV @ vectors_CV.T
            if video[rows[-1]] >= video[columns[0]]:
                same_RC = video[rows, None] == video[columns]
                near_RC = np.abs(middle_s[rows, None] - middle_s[columns]) < apart_s
                similar_RC[(rows[:, None] >= columns) | (same_RC & near_RC)] = -2
            alike_RC = similar_RC >= least
            # Where very much is alike, as in still scenes, most pairs are left out before they take memory.
            dense = np.count_nonzero(alike_RC) > alike_RC.size * _DENSE
            ways = _best_of_each(similar_RC, video[rows], video[columns]) if dense else (None, None)
            for best_RC, nearest in zip(ways, (forth, back), strict=True):
                places = np.flatnonzero(alike_RC if best_RC is None else alike_RC & best_RC)
                row, column = np.divmod(places, len(columns))
                ends = (rows[row], columns[column])
                nearest.add(*(ends if nearest is forth else ends[::-1]), similar_RC.reshape(-1)[places])
    first, second, similarity = forth.done()
    turned_second, turned_first, _ = back.done()
    mutual = np.isin(first * len(video) + second, turned_first * len(video) + turned_second)
    order = np.flatnonzero(mutual)[np.lexsort((second[mutual], first[mutual]))]
    return Pairs(first[order], second[order], similarity[order])


def _best_of_each(
    similar_RC: np.ndarray, row_video: np.ndarray, column_video: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the best column of each video for each row, and of the best row of each video for each column."""
    masks = []
    for axis, numbers in ((1, column_video), (0, row_video)):
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        lengths = np.diff([*starts, len(numbers)])

        def best(
            values_RC: np.ndarray, axis: int = axis, starts: Any = starts, lengths: Any = lengths
        ) -> np.ndarray:
            return values_RC >= np.repeat(
                np.maximum.reduceat(values_RC, starts, axis=axis), lengths, axis=axis
            )

        mask_RC = best(similar_RC)
        # Ties, as between black frames, are broken at random.
        drawn = np.random.default_rng(0).random((sum(similar_RC.shape), 1), np.float32)
        chance_RC = drawn[: len(similar_RC)] + drawn[len(similar_RC) :, 0]
        masks.append(mask_RC & best(np.where(mask_RC, chance_RC, -1)))
    return masks[0], masks[1]


class _Nearest:
    """For each slot and video, the slot of that video that is nearest to it, among the pairs added so far."""

    def __init__(self, video: np.ndarray) -> None:
        self._video = video
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, slot: np.ndarray, other: np.ndarray, similarity: np.ndarray) -> None:
        """Add pairs."""
        self._kept.append((slot, other, similarity))
        self._waiting += len(slot)
        if self._waiting > max(_WAITING, len(self._kept[0][0])):
            self._kept = [self.done()]
            self._waiting = 0

    def done(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The nearest: slots, others and similarities."""
        if not self._kept:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        slot, other, similarity = (np.concatenate(parts) for parts in zip(*self._kept, strict=True))
        key = slot * (int(self._video.max()) + 1) + self._video[other]
        # Among equals the earliest, so that the result does not depend on the blocks.
        order = np.lexsort((other, -similarity, key))
        first = order[np.flatnonzero(np.diff(key[order], prepend=-1))]
        return slot[first], other[first], similarity[first]


def common_slots(
    vectors_NV: np.ndarray,
    video: np.ndarray,
    *,
    least: float,
    most: int,
    sample: int = 8192,
    block: int = _BLOCK,
) -> np.ndarray:
    """Mask bool [N] of the slots that are alike to slots of more than about ``most`` other videos, such as titles.

    They do not say where a copy is, and would make as many pairs as their number squared. Counted on a sample of the
    slots, the same each time. ``video`` is in ascending order.
    """
    count = len(vectors_NV)
    chosen = np.sort(np.random.default_rng(0).permutation(count)[:sample])
    sample_SV = np.asarray(vectors_NV[chosen], np.float32)
    starts = np.flatnonzero(np.diff(video[chosen], prepend=-1))
    seen = np.empty(count, np.int64)
    for begin in range(0, count, block):
        part = slice(begin, begin + block)
        alike_BS = np.asarray(vectors_NV[part], np.float32) @ sample_SV.T >= least
        alike_BS &= video[part, None] != video[chosen]
        seen[part] = np.logical_or.reduceat(alike_BS, starts, axis=1).sum(1)
    return seen * (len(np.unique(video)) / max(1, len(starts))) > most
