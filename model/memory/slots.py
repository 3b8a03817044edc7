"""Finished visual memory: its slots, their time spans, and merging several memories into one.

Shape suffixes: S slots in time order, N visual tokens, L layers, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmm.model.memory.bank import Bank, BankEntries
from malmm.model.memory.policies import merge_policy

__all__ = ["Memory", "SlotSpan", "merge_memories"]


@dataclass(frozen=True)
class SlotSpan:
    """The span of one slot: frames [first, first + frame_count) and seconds [start_s, end_s)."""

    first: int
    frame_count: int
    start_s: float
    end_s: float
    middle: int
    timestamp_s: float
    centre_s: float


@dataclass(frozen=True)
class Memory:
    """The visual memory of a segment, or of several merged: ``tokens`` [S, N, C] or [S, N, L, C], ``sizes`` [S, N].

    Of L layers only the first is compared; the others are merged along with it.

    Provenance is in frames of the whole (a segment, or several one after the other): ``first`` [S, N] int64 is the
    first frame that each position covers, ``sizes`` the number of frames in it, and ``appended`` the number of all
    frames, including those that a policy dropped. Policies merge only neighbours, so a position is the mean of the
    consecutive frames [first, first + sizes). The one exception: if a memory from which frames were dropped is merged
    later, ``sizes`` counts the frames that are left of a longer run.
    """

    tokens: Tensor
    sizes: Tensor
    first: Tensor
    appended: int

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"Memory(tokens={tuple(self.tokens.shape)}, appended={self.appended})"

    @classmethod
    def of(cls, entries: BankEntries) -> Memory:
        """The memory in a row of a finished bank."""
        return cls(entries.tokens, entries.sizes, entries.first, entries.appended)

    @classmethod
    def stored(cls, tokens: Tensor, sizes: Tensor, frames: int) -> Memory:
        """The memory of a segment of ``frames`` frames, read from storage.

        Where each slot begins follows from the sizes: frames in no slot were dropped, and the oldest are dropped first.
        Raises ValueError if the slots have more frames than the segment.
        """
        counts = sizes.to(torch.int64)
        held = counts.sum(0)
        if int(held.max()) > frames:
            raise ValueError(f"slots that hold {int(held.max())} frames, of a segment of {frames}")
        return cls(tokens, sizes, frames - held + counts.cumsum(0) - counts, frames)

    def frame_weights(self) -> Tensor:
        """How much of each slot each frame makes: float64 [S, T], rows that sum to one.

        A position is the mean of its run of frames, and positions count alike: a frame's weight is the mean, over
        positions, of one over the frames of the run that it is in. Whatever is a vector a frame merges so: carried
        along with the tokens through every merge, and averaged over positions at the end, it comes to the same.
        """
        runs = self.sizes.to(torch.int64).clamp(min=1)
        share_SN = 1 / (runs.to(torch.float64) * runs.shape[1])
        steps_ST = share_SN.new_zeros(len(runs), self.appended + 1)
        steps_ST.scatter_add_(1, self.first, share_SN)
        steps_ST.scatter_add_(1, (self.first + runs).clamp(max=self.appended), -share_SN)
        return steps_ST.cumsum(1)[:, :-1].clamp(min=0)

    def _runs(self) -> list[tuple[int, int]]:
        """The frames [begin, end) of each slot, the lower median over positions."""
        begins = self.first.median(dim=1).values.tolist()
        return list(zip(begins, [*begins[1:], self.appended], strict=True))

    def middles(self, *, between: bool = False) -> list[float]:
        """The middle frame of each slot, rounded down; with ``between`` it may be half way between two frames."""
        return [(begin + end - 1) / 2 if between else (begin + end - 1) // 2 for begin, end in self._runs()]

    def spans(self, timestamps_s: Sequence[float], start_s: float, end_s: float) -> list[SlotSpan]:
        """The time span of every slot of a segment [start_s, end_s) whose frames had these timestamps.

        Each token position divides time in its own way. A slot begins at the lower median, over positions, of their
        first frames. At every position a later slot begins later, so the medians do too, and the spans tile the segment
        without gaps or overlaps. ``timestamp_s`` is the time of the slot's middle frame, ``centre_s`` the mean of the
        times of its first and last frame. If the policy dropped frames (``fifo``), the first slot begins at its own
        first frame.
        """
        if len(timestamps_s) != self.appended:
            raise ValueError(f"{len(timestamps_s)} timestamps for a memory of {self.appended} frames")
        spans = []
        for begin, end in self._runs():
            middle = (begin + end - 1) // 2
            spans.append(
                SlotSpan(
                    first=begin,
                    frame_count=end - begin,
                    start_s=start_s if begin == 0 else timestamps_s[begin],
                    end_s=end_s if end == self.appended else timestamps_s[end],
                    middle=middle,
                    timestamp_s=timestamps_s[middle],
                    centre_s=(timestamps_s[begin] + timestamps_s[end - 1]) / 2,
                )
            )
        return spans


def merge_memories(
    memories: Iterable[Memory], *, length: int, policy: str = "token", slots: int | None = None
) -> Memory:
    """Merge several memories, in time order, into one of at most ``length`` slots, by the same compression.

    With ``slots``, an upper bound for the number of slots in all memories, only one memory is held at a time, which
    matters for a video of many hours.

    Tokens in half precision are merged in single precision: in half precision the cosines of similar frames are equal,
    so the most similar pair could not be found.

    Raises ValueError if there is no memory, or if their shapes differ.
    """
    if slots is None:
        memories = list(memories)
        slots = sum(len(memory) for memory in memories)
    bank: Bank | None = None
    shape: tuple[int, ...] = ()
    before = 0
    firsts = []
    for memory in memories:
        if bank is None:
            shape = tuple(memory.tokens.shape[1:])
            bank = Bank(
                rows=1,
                length=length,
                steps=slots,
                positions=shape[0],
                channels=math.prod(shape[1:]),
                compared=shape[-1],
                policy=merge_policy(policy),
                device=memory.tokens.device,
                dtype=torch.promote_types(memory.tokens.dtype, torch.float32),
            )
        elif memory.tokens.shape[1:] != shape:
            shapes = sorted({shape, tuple(memory.tokens.shape[1:])})
            raise ValueError(f"memories of different token shapes cannot be merged: {shapes}")
        for slot in range(len(memory)):
            bank.append(
                memory.tokens[slot].flatten(1)[None], memory.sizes[slot][None].to(bank.tokens_BSNC.device)
            )
        firsts.append(memory.first.to(bank.tokens_BSNC.device) + before)
        before += memory.appended
    if bank is None:
        raise ValueError("no memories to merge")
    merged = bank.finish()[0]
    # The bank counts slots: a position's first frame is that of its first slot.
    first = torch.cat(firsts).gather(0, merged.first)
    return Memory(merged.tokens.unflatten(-1, shape[1:]), merged.sizes, first, before)
