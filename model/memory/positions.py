"""Temporal position embeddings: a learned vector for a frame's time, added to its visual tokens before the memory bank.

MA-LMM's authors train such a table (their ``image_pe``). InstructBLIP's published weights have none, which equals a
table of zeros. Here it is an optional tensor of a checkpoint, and its name says which of two kinds it is:

* ``frame_positions.weight`` is the authors': frame i has row i. They sample the same number of frames from every video,
  at most as many as the table has rows. A whole of more frames than rows is spread over the table: frame i of T lies at
  row i * (P - 1) / (T - 1), interpolated linearly.
* ``time_positions.weight`` is a function of relative time, as the demo model has: frame i of T lies at (i + 0.5) / T of
  the whole, and its vector is interpolated linearly between the table's rows, of which the first is the beginning and
  the last the end. A segment and its whole video have different numbers of frames, and this table fits both.

Memory is stored without positions and gets them when it is used, so that a segment's slots get their positions in the
segment or in its video. This is exact because a merge is the mean weighted by frames: a slot's position is the mean
over the frames that it covers, whatever the tokens are.

Shape suffixes: T frames, P rows of the table, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.memory.slots import Memory

__all__ = [
    "FRAME_POSITIONS_KEY",
    "POSITIONS_KEYS",
    "TIME_POSITIONS_KEY",
    "FramePositions",
    "Positions",
    "TimePositions",
    "load_positions",
    "table_rows",
]

FRAME_POSITIONS_KEY = "frame_positions.weight"
TIME_POSITIONS_KEY = "time_positions.weight"
#: Names that a table has in a checkpoint. A checkpoint has one at most.
POSITIONS_KEYS = (TIME_POSITIONS_KEY, FRAME_POSITIONS_KEY)


class Positions(nn.Module, ABC):
    """A table ``weight`` [P, C] of positions in time, differentiable in the table."""

    #: Rows that a table has at least.
    least_rows: int

    def __init__(self, weight: Tensor) -> None:
        """Raises ValueError for a table that is not [P, C] with at least ``least_rows`` rows."""
        super().__init__()
        if weight.ndim != 2 or weight.shape[0] < self.least_rows or weight.shape[1] < 1:
            raise ValueError(
                f"a position table {list(weight.shape)}: it must be [P, C] with P at least {self.least_rows}"
            )
        self.weight = nn.Parameter(weight)

    @abstractmethod
    def _place(self, frame_T: Tensor, count: int) -> Tensor:
        """Where frames [T], float64 numbers from 0 on, of a whole of ``count`` lie, in rows of the table."""

    def of_frames(self, count: int) -> Tensor:
        """Vectors [count, C] of all frames of a whole of ``count`` frames. Raises ValueError if ``count`` is 0."""
        return self._mix(self._shares(0, count, count))

    def of_runs(self, first: Tensor, sizes: Tensor, count: int) -> Tensor:
        """Mean vectors [..., C] over the frames ``first`` up to ``first + sizes`` of a whole of ``count`` frames.

        ``first`` and ``sizes`` [...] are whole numbers of any type. Raises ValueError for an empty run, or one outside
        of the whole.
        """
        begin = first.to(self.weight.device, torch.int64)
        end = begin + sizes.to(self.weight.device, torch.int64)
        if not begin.numel():
            return self.weight.new_empty(*begin.shape, self.weight.shape[1])
        lowest, highest = int(begin.min()), int(end.max())
        if lowest < 0 or highest > count:
            raise ValueError(f"runs of frames from {lowest} up to {highest} in a whole of {count} frames")
        if bool((begin >= end).any()):
            raise ValueError("a run of no frames has no position")
        shares_TP = self._shares(lowest, highest, count)
        # Cumulative sums of shares [T, P] and not of vectors [T, C]: smaller, and a whole video has many frames.
        until_TP = torch.cat([torch.zeros_like(shares_TP[:1]), shares_TP.cumsum(0)])
        total = until_TP[end - lowest] - until_TP[begin - lowest]
        return self._mix(total / (end - begin)[..., None])

    def added(self, memory: Memory, *, before: int = 0, total: int | None = None) -> Memory:
        """Add to each position of each slot the mean vector of the frames that it covers.

        The memory's frames follow ``before`` other frames in a whole of ``total``; by default they are the whole.
        Tokens in half precision become the table's type. Raises ValueError if the whole is too short.
        """
        whole = memory.appended if total is None else total
        if before < 0 or before + memory.appended > whole:
            raise ValueError(
                f"a memory of {memory.appended} frames after {before} others in a whole of {whole}: "
                "give the number of frames of the whole"
            )
        return replace(memory, tokens=memory.tokens + self._within(memory, before, whole))

    def removed(self, memory: Memory) -> Memory:
        """Subtract the vectors from a memory that is a whole: undo ``added``."""
        return replace(memory, tokens=memory.tokens - self._within(memory, 0, memory.appended))

    def _within(self, memory: Memory, before: int, whole: int) -> Tensor:
        if memory.owner is not None:
            return self._of_scattered(memory.owner, len(memory), before, whole).to(memory.tokens.device)
        return self.of_runs(memory.first + before, memory.sizes, whole).to(memory.tokens.device)

    def _of_scattered(self, owner_T: Tensor, slots: int, before: int, whole: int) -> Tensor:
        """Mean vectors [S, 1, C] of slots over the frames that each covers, wherever these are."""
        owner_T = owner_T.to(self.weight.device)
        shares_TP = self._shares(before, before + len(owner_T), whole)
        kept_T = owner_T >= 0
        counts_S = torch.bincount(owner_T[kept_T], minlength=slots)
        total_SP = shares_TP.new_zeros(slots, shares_TP.shape[1])
        total_SP.index_add_(0, owner_T[kept_T], shares_TP[kept_T])
        return self._mix(total_SP / counts_S[:, None])[:, None]

    def _shares(self, begin: int, end: int, count: int) -> Tensor:
        """Interpolation weights float64 [T, P] of the table's rows for the T frames [begin, end) of ``count``."""
        if count < 1:
            raise ValueError(f"a whole of {count} frames has no positions: at least 1")
        rows = self.weight.shape[0]
        device = self.weight.device
        frame_T = torch.arange(begin, end, device=device, dtype=torch.float64)
        distance_TP = self._place(frame_T, count)[:, None] - torch.arange(rows, device=device)
        return (1 - distance_TP.abs()).clamp(min=0)

    def _mix(self, shares: Tensor) -> Tensor:
        """Combine rows with weights [..., P] to vectors [..., C] of the table's type."""
        return (shares @ self.weight.double()).to(self.weight.dtype)


class TimePositions(Positions):
    """A table over relative time: its first row is the beginning of the whole and its last the end."""

    least_rows = 2

    def _place(self, frame_T: Tensor, count: int) -> Tensor:
        return (frame_T + 0.5) / count * (self.weight.shape[0] - 1)


class FramePositions(Positions):
    """A table over frame numbers. A whole of more frames than rows is spread over the table evenly."""

    least_rows = 1

    def _place(self, frame_T: Tensor, count: int) -> Tensor:
        last = self.weight.shape[0] - 1
        return frame_T if count <= last + 1 else frame_T * (last / (count - 1))


_KINDS: dict[str, type[Positions]] = {
    TIME_POSITIONS_KEY: TimePositions,
    FRAME_POSITIONS_KEY: FramePositions,
}


def load_positions(checkpoint: Checkpoint, channels: int) -> Positions | None:
    """Load a checkpoint's table for this many visual channels; None if it has none.

    Raises CheckpointError for a table of another shape, and where there are two.
    """
    rows = table_rows(checkpoint, channels)
    key = _key(checkpoint)
    if rows is None or key is None:
        return None
    positions = _KINDS[key](torch.empty(rows, channels))
    checkpoint.fill(positions, key.removesuffix("weight"))
    return positions


def table_rows(checkpoint: Checkpoint, channels: int) -> int | None:
    """Rows P of a checkpoint's table, from its header; None without a table.

    Raises CheckpointError as ``load_positions`` does.
    """
    key = _key(checkpoint)
    if key is None:
        return None
    found, least = checkpoint.shapes[key], _KINDS[key].least_rows
    if len(found) != 2 or found[0] < least or found[1] != channels:
        raise CheckpointError(
            f"model {checkpoint.name!r} has tensors of another size: "
            f"{key} is {list(found)}, not [P, {channels}] with P at least {least}"
        )
    return found[0]


def _key(checkpoint: Checkpoint) -> str | None:
    keys = [key for key in POSITIONS_KEYS if key in checkpoint.shapes]
    if len(keys) > 1:
        raise CheckpointError(
            f"model {checkpoint.name!r} has both {' and '.join(keys)}: take one of the two tables out"
        )
    return keys[0] if keys else None
