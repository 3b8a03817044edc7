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
from malmm.model.memory.merge_policies import merge_policy

__all__ = ["Memory", "Part", "SlotSpan", "merge_memories"]


@dataclass(frozen=True)
class Part:
    """An unbroken run of ``frame_count`` frames in seconds [start_s, end_s)."""

    start_s: float
    end_s: float
    frame_count: int


@dataclass(frozen=True)
class SlotSpan:
    """What one slot covers: ``frame_count`` frames from frame ``first`` on, in seconds [start_s, end_s).

    Where slots may join what is not adjacent, ``parts`` are the runs that it covers, in time order, [start_s, end_s) is
    their hull, and ``middle``, ``timestamp_s`` and ``centre_s`` are of the first run, so that a later slot has a later
    one. Else ``parts`` is None.
    """

    first: int
    frame_count: int
    start_s: float
    end_s: float
    middle: int
    timestamp_s: float
    centre_s: float
    parts: tuple[Part, ...] | None = None


@dataclass(frozen=True)
class Memory:
    """The visual memory of a segment, or of several merged: ``tokens`` [S, N, C] or [S, N, L, C], ``sizes`` [S, N].

    Of L layers only the first is compared; the others are merged along with it.

    Provenance is in frames of the whole, be it a segment or several one after the other: ``first`` [S, N] int64
    is the first frame that each position covers, ``sizes`` how many it holds, and ``appended`` how many frames
    there were, whether a slot holds them or a policy forgot them. Where a policy joins neighbours only, a position is
    the mean of the unbroken run of frames [first, first + sizes), and ``owner`` is None. The one exception is a policy
    that merges what another has forgotten frames of: ``sizes`` then counts what is left of a longer run. Where a policy
    joins any two slots, ``owner`` [appended] int64 is the slot that each frame is in, -1 for one that was forgotten.
    """

    tokens: Tensor
    sizes: Tensor
    first: Tensor
    appended: int
    owner: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"Memory(tokens={tuple(self.tokens.shape)}, appended={self.appended})"

    @classmethod
    def of(cls, entries: BankEntries) -> Memory:
        """The memory that a finished bank's row holds."""
        return cls(entries.tokens, entries.sizes, entries.first, entries.appended, entries.owner)

    @classmethod
    def stored(
        cls,
        tokens: Tensor,
        sizes: Tensor,
        frames: int,
        parts: Sequence[Sequence[Part]] | None = None,
    ) -> Memory:
        """The memory of a segment of so many frames, read back from storage.

        Sizes say where each slot begins: frames that are in no slot were forgotten, and the oldest are forgotten
        first. Where slots join what is not adjacent, their ``parts`` say it. Raises ValueError when slots hold more
        frames than there were, or other parts than frames.
        """
        if parts is not None:
            owner = _owner(parts)
            if len(owner) != frames or len(parts) != len(tokens):
                raise ValueError(f"{len(parts)} slots of {len(owner)} frames, of a segment of {frames}")
            first = torch.tensor([int((owner == slot).nonzero()[0]) for slot in range(len(parts))])
            return cls(tokens, sizes, first[:, None].expand(sizes.shape).clone(), frames, owner)
        counts = sizes.to(torch.int64)
        held = counts.sum(0)
        if int(held.max()) > frames:
            raise ValueError(f"slots that hold {int(held.max())} frames, of a segment of {frames}")
        return cls(tokens, sizes, frames - held + counts.cumsum(0) - counts, frames)

    def frame_weights(self) -> Tensor:
        """How much each frame counts in each slot: float64 [S, T], rows that sum to one.

        A slot stands for the frames of its span, or of its spans, alike. Where token positions part time in their own
        ways, that is what ``spans`` says of it, and not every frame that some position holds.
        """
        weights_ST = torch.zeros(len(self), self.appended, dtype=torch.float64)
        for slot, runs in enumerate(self.runs()):
            held = sum(end - begin for begin, end in runs)
            for begin, end in runs:
                weights_ST[slot, begin:end] = 1 / held
        return weights_ST

    def runs(self) -> list[list[tuple[int, int]]]:
        """The unbroken runs of frames [begin, end) of each slot, in time order.

        Where slots join neighbours only it is one run each, the lower median over positions.
        """
        if self.owner is None:
            return [[run] for run in self._neighbours()]
        runs: list[list[tuple[int, int]]] = [[] for _ in range(len(self))]
        slots, counts = torch.unique_consecutive(self.owner, return_counts=True)
        ends = counts.cumsum(0)
        for slot, begin, end in zip(slots.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True):
            if slot >= 0:
                runs[slot].append((begin, end))
        return runs

    def _neighbours(self) -> list[tuple[int, int]]:
        begins = self.first.median(dim=1).values.tolist()
        return list(zip(begins, [*begins[1:], self.appended], strict=True))

    def middles(self, *, between: bool = False) -> list[float]:
        """The middle frame of each slot, of its first run; ``between`` two frames it may be a half."""
        firsts = [runs[0] for runs in self.runs()]
        return [(begin + end - 1) / 2 if between else (begin + end - 1) // 2 for begin, end in firsts]

    def spans(self, timestamps_s: Sequence[float], start_s: float, end_s: float) -> list[SlotSpan]:
        """The time span of every slot of a segment [start_s, end_s) whose frames had these timestamps.

        Each token position parts time in its own way. A slot begins at the lower median, over positions, of
        the frames where they begin; since every position begins a later slot at a later frame, so do the
        medians, and the spans tile the segment without gap or overlap. ``timestamp_s`` is the time of the slot's
        middle frame, ``centre_s`` the mean of the times of its first and last one. Where the policy forgot frames
        (first in, first out), the first slot begins at its own frame. Slots that join what is not adjacent have their
        ``parts``, which tile the segment together.
        """
        if len(timestamps_s) != self.appended:
            raise ValueError(f"{len(timestamps_s)} timestamps for a memory of {self.appended} frames")
        spans = []
        for runs in self.runs():
            parts = tuple(
                Part(
                    start_s=start_s if begin == 0 else timestamps_s[begin],
                    end_s=end_s if end == self.appended else timestamps_s[end],
                    frame_count=end - begin,
                )
                for begin, end in runs
            )
            begin, end = runs[0]
            middle = (begin + end - 1) // 2
            spans.append(
                SlotSpan(
                    first=begin,
                    frame_count=sum(part.frame_count for part in parts),
                    start_s=parts[0].start_s,
                    end_s=parts[-1].end_s,
                    middle=middle,
                    timestamp_s=timestamps_s[middle],
                    centre_s=(timestamps_s[begin] + timestamps_s[end - 1]) / 2,
                    parts=None if self.owner is None else parts,
                )
            )
        return spans


def _owner(parts: Sequence[Sequence[Part]]) -> Tensor:
    """The slot of each frame, from the parts of each slot, which cover all frames."""
    runs = sorted(
        (part.start_s, part.end_s, slot, part.frame_count) for slot, own in enumerate(parts) for part in own
    )
    slots = torch.tensor([slot for _, _, slot, _ in runs], dtype=torch.int64)
    return slots.repeat_interleave(torch.tensor([count for *_, count in runs], dtype=torch.int64))


def merge_memories(
    memories: Iterable[Memory], *, length: int, policy: str = "token", slots: int | None = None
) -> Memory:
    """Merge several memories, in time order, into one of at most ``length`` slots, by the same compression.

    With ``slots``, an upper bound for the number of slots in all memories, only one memory is held at a time, which
    matters for a video of many hours.

    Tokens in half precision are merged in single precision: in half precision the cosines of similar frames are equal,
    so the most similar pair could not be found.

    A policy that joins any two slots takes those of a memory without ``owner`` for the runs that ``Memory.runs`` gives.

    Raises ValueError when there is none, when they differ in shape, and for slots that join what is not adjacent with a
    policy that joins neighbours only.
    """
    if slots is None:
        memories = list(memories)
        slots = sum(len(memory) for memory in memories)
    bank: Bank | None = None
    shape: tuple[int, ...] = ()
    before = 0
    firsts = []
    owners: list[Tensor] = []
    held = 0
    any_two = not merge_policy(policy).adjacent
    for memory in memories:
        if memory.owner is not None and not any_two:
            raise ValueError(
                f"slots that join what is not adjacent cannot be merged by the policy {policy!r}"
            )
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
        if any_two:
            own = memory.owner if memory.owner is not None else _owner_of_runs(memory)
            owners.append(torch.where(own < 0, own, own + held).cpu())
            held += len(memory)
        before += memory.appended
    if bank is None:
        raise ValueError("no memories to merge")
    merged = bank.finish()[0]
    # The bank counts slots: a position's first frame is that of its first slot.
    first = torch.cat(firsts).gather(0, merged.first)
    owner = None
    if merged.owner is not None:
        slot_of_frame = torch.cat(owners)
        owner = torch.where(slot_of_frame < 0, slot_of_frame, merged.owner.cpu()[slot_of_frame])
    return Memory(merged.tokens.unflatten(-1, shape[1:]), merged.sizes, first, before, owner)


def _owner_of_runs(memory: Memory) -> Tensor:
    owner = torch.full((memory.appended,), -1, dtype=torch.int64)
    for slot, [(begin, end)] in enumerate(memory.runs()):
        owner[begin:end] = slot
    return owner
