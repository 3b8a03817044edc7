"""Finished visual memory: its spans in time, merging several into one, and its form for storage.

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
    """What one slot covers: frames [first, first + frame_count) and seconds [start_s, end_s)."""

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

    Of L layers the first is compared, and the others are merged along with it.

    Provenance is in frames of the whole, be it a segment or several one after the other: ``first`` [S, N] int64
    is the first frame that each position covers, ``sizes`` how many it holds, and ``appended`` how many frames
    there were, whether a slot holds them or a policy forgot them. Policies join neighbours only, so a position is
    the mean of the unbroken run of frames [first, first + sizes). The one exception is a policy that merges what
    another has forgotten frames of: ``sizes`` then counts what is left of a longer run.
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
        """The memory that a finished bank's row holds."""
        return cls(entries.tokens, entries.sizes, entries.first, entries.appended)

    @classmethod
    def stored(cls, tokens: Tensor, sizes: Tensor, frames: int) -> Memory:
        """The memory of a segment of so many frames, read back from storage.

        Sizes say where each slot begins: frames that are in no slot were forgotten, and the oldest are forgotten
        first. Raises ValueError when slots hold more frames than there were.
        """
        counts = sizes.to(torch.int64)
        held = counts.sum(0)
        if int(held.max()) > frames:
            raise ValueError(f"slots that hold {int(held.max())} frames, of a segment of {frames}")
        return cls(tokens, sizes, frames - held + counts.cumsum(0) - counts, frames)

    def _runs(self) -> list[tuple[int, int]]:
        """The frames [begin, end) of each slot, the lower median over positions."""
        begins = self.first.median(dim=1).values.tolist()
        return list(zip(begins, [*begins[1:], self.appended], strict=True))

    def middles(self, *, between: bool = False) -> list[float]:
        """The middle frame of each slot; ``between`` two frames it may be a half."""
        return [(begin + end - 1) / 2 if between else (begin + end - 1) // 2 for begin, end in self._runs()]

    def spans(self, timestamps_s: Sequence[float], start_s: float, end_s: float) -> list[SlotSpan]:
        """The time span of every slot of a segment [start_s, end_s) whose frames had these timestamps.

        Each token position parts time in its own way. A slot begins at the lower median, over positions, of
        the frames where they begin; since every position begins a later slot at a later frame, so do the
        medians, and the spans tile the segment without gap or overlap. ``timestamp_s`` is the time of the slot's
        middle frame, ``centre_s`` the mean of the times of its first and last one. Where the policy forgot frames
        (first in, first out), the first slot begins at its own frame.
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
    """One memory of at most ``length`` slots out of several, in time order, by the same compression.

    Its frames are those of the memories, one memory after the other. Told how many ``slots`` there are at most,
    it takes one memory after the other and lets it go: a video of many hours need not be held at once.

    Halves are merged as singles: cosines of like frames are equal in half precision, and which pair is most
    similar is lost.

    Raises ValueError when there is none or they differ in shape.
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
    # The bank counts slots; the first slot that a position covers says the first frame.
    first = torch.cat(firsts).gather(0, merged.first)
    return Memory(merged.tokens.unflatten(-1, shape[1:]), merged.sizes, first, before)
