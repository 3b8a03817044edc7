"""A memory bank: at most M entries of past states. When it is full, the most similar neighbours are merged.

The visual memory bank and the query memory banks of MA-LMM (He et al., CVPR 2024, section 3) are the same structure.
Three properties make an append cost no more than its new entry:

* Keys and values are affine in the entry, and the weights of a merge sum to one, so the merge of the keys is the key of
  the merge. So each entry is projected once, and its keys and values go through the same changes in their own buffers
  (``Change.apply``), at once or later: what a bank does depends only on its entries.
* Attention does not depend on the order of its keys. An entry stays in its physical slot. A merge writes its result to
  one slot and frees the other, for each token position separately, and the next entry is written there. Time order is
  an index. A full bank has no holes and needs no mask.
* A merge changes two similarities of neighbours, and an append adds one. All others are kept.

Shape suffixes: B rows, S physical slots or entries in time order, N token positions, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from malmm.model.memory.merge_policies import MergePolicy
from malmm.model.memory.merging import Change, merged
from malmm.model.memory.similar_pairs import SimilarPairs

__all__ = ["Bank", "BankEntries"]


class BankEntries:
    """The entries of one row of a bank, in time order.

    ``tokens`` [S, N, C]; ``sizes`` [S, N], the number of frames in each position; ``first`` [S, N] int64, the ordinal
    of the first appended entry that each position covers. If the policy merges only neighbours, position n of entry s
    covers the ordinals from ``first[s, n]`` up to ``first[s + 1, n]``, or up to ``appended`` at the end, and ``owner``
    is None. If it merges any two, ``owner`` [appended] int64 is the entry of each ordinal, -1 for a dropped one.
    """

    __slots__ = ("appended", "first", "owner", "sizes", "tokens")

    def __init__(
        self, tokens: Tensor, sizes: Tensor, first: Tensor, appended: int, owner: Tensor | None = None
    ) -> None:
        self.tokens = tokens
        self.sizes = sizes
        self.first = first
        self.appended = appended
        self.owner = owner

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"BankEntries(tokens={tuple(self.tokens.shape)}, appended={self.appended})"


_SLOT, _FIRST, _SIZE = range(3)


class Bank:
    """Preallocated memory of ``rows`` independent sequences that advance in lock step.

    Compression is lazy: between appends a bank holds up to ``length`` + 1 entries, as attention must see them, and
    compresses at the next append or at ``finish()``. Sequences end from the last row on: ``retire(active)`` leaves the
    ended rows as they are.

    ``length`` 0 switches the memory off: the bank holds only the newest entry. ``steps`` is the largest number of
    appends, which bounds the allocation. ``present_BN`` is false for padding, which is ignored when a policy looks at
    all positions of an entry together. ``compared`` is the number of channels, from the first, that are compared; the
    others are merged along with them.
    """

    def __init__(
        self,
        *,
        rows: int,
        length: int,
        steps: int,
        positions: int,
        channels: int,
        policy: MergePolicy,
        device: torch.device | str,
        dtype: torch.dtype,
        present_BN: Tensor | None = None,
        compared: int | None = None,
    ) -> None:
        if length < 0 or steps < 1 or rows < 1:
            raise ValueError(f"a bank of {rows} rows, length {length}, {steps} steps is not possible")
        self.policy = policy
        self.length = length
        self._present_BN = present_BN
        self._compared = channels if compared is None else compared
        self.capacity = steps if not policy.bounded else min(steps, length + 1)
        self.positions = positions
        self.rows = rows
        self.active = rows
        self.count = 0
        self.appended = 0
        self._row_count = [0] * rows
        self._row_appended = [0] * rows
        shape_BSN = (rows, self.capacity, positions)
        self.tokens_BSNC = torch.empty(*shape_BSN, channels, device=device, dtype=dtype)
        # Of each entry, in time order: its slot, the first ordinal that it covers, and its number of frames.
        self._known_3SBN = torch.zeros(3, self.capacity, rows, positions, device=device, dtype=torch.int64)
        self._time_S11 = torch.arange(self.capacity, device=device)[:, None, None]
        self._known_3SBN[_SLOT] = self._time_S11
        pairs = max(self.capacity - 1, 1)
        self._similarity_SBN = torch.zeros(pairs, rows, positions, device=device, dtype=dtype)
        self._pairs: SimilarPairs | None = None
        if not policy.adjacent:
            self._pairs = SimilarPairs(rows, self.capacity, device=device, dtype=dtype)
            # The slot that each appended entry is in.
            self._slot_of_BT = torch.full((rows, steps), -1, device=device, dtype=torch.int64)
        # Flat index of slot 0 of (row, position); slot s is `positions` * s further on.
        row_B1 = torch.arange(rows, device=device)[:, None] * (self.capacity * positions)
        self._base_BN = row_B1 + torch.arange(positions, device=device)
        self._around_411 = torch.tensor([0, 1, -1, 2], device=device)[:, None, None]
        self._weight_dtype = torch.promote_types(dtype, torch.float32)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for entries."""
        return self.tokens_BSNC.nbytes

    def buffer(self, channels: int) -> Tensor:
        """An empty buffer [B, S, N, ``channels``] for values that follow the bank's changes."""
        return self.tokens_BSNC.new_empty(*self.tokens_BSNC.shape[:3], channels)

    def retire(self, active: int) -> None:
        """Continue only with the first ``active`` rows; the others have ended and stay as they are."""
        if not 0 <= active <= self.active:
            raise ValueError(f"{active} rows cannot be active of {self.active}")
        self.active = active

    def append(self, tokens_BNC: Tensor, sizes_BN: Tensor | None = None) -> Change:
        """Append one entry to every active row; compress first if the bank is full.

        ``sizes_BN`` are the numbers of frames in the entry's positions, by default one each.
        """
        active = self.active
        merged = None
        if self.length == 0 and self.policy.bounded:
            self.count = 1
        elif self.count == self.capacity:
            if not self.policy.bounded:
                raise ValueError(f"a bank for {self.capacity} entries got one more")
            if self.capacity <= self.length:
                raise ValueError(f"a bank for {self.capacity} steps got one more")
            merged = self._compress()
        else:
            self.count += 1
        newest = self.count - 1
        self._known_3SBN[_FIRST, newest, :active] = self.appended
        self._known_3SBN[_SIZE, newest, :active] = 1 if sizes_BN is None else sizes_BN
        self.appended += 1
        for row in range(active):
            self._row_count[row] = self.count
            self._row_appended[row] = self.appended
        slots_BN = self._known_3SBN[_SLOT, newest, :active]
        places_B = self._flat(slots_BN).flatten()
        flat = self.tokens_BSNC.view(-1, self.tokens_BSNC.shape[-1])
        tokens_BNC = tokens_BNC.to(flat.dtype)
        flat[places_B] = tokens_BNC.reshape(-1, flat.shape[-1])
        if self._pairs is not None:
            if not self.length:
                self._slot_of_BT[:active] = -1
            self._slot_of_BT[:active, self.appended - 1] = slots_BN[:, 0]
            self._compare(self._pairs, slots_BN[:, 0])
        elif newest and self.policy.uses_similarity:
            before_B = self._flat(self._known_3SBN[_SLOT, newest - 1, :active]).flatten()
            before_BNC = flat.index_select(0, before_B).view_as(tokens_BNC)
            self._similarity_SBN[newest - 1, :active] = self._similarity(before_BNC, tokens_BNC)
        return Change(self.count, places_B, *(merged or ()))

    def finish(self) -> list[BankEntries]:
        """Compress every row to the bank's length and return the entries of each. Ends the bank's use."""
        full = sum(count > max(self.length, 1) for count in self._row_count) if self.policy.bounded else 0
        if full:
            # Rows with one entry too many are the longest ones, so they come first.
            self.active = full
            self.count = self.capacity
            self._compress()
            self._row_count[:full] = [self.capacity - 1] * full
        return self.entries()

    def entries(self) -> list[BankEntries]:
        """The current entries of each row, in time order, without further compression."""
        held = []
        for row, (count, appended) in enumerate(zip(self._row_count, self._row_appended, strict=True)):
            slots_SN, first_SN, sizes_SN = self._known_3SBN[:, :count, row].unbind()
            owner_T = None
            if self._pairs is not None:
                place_S = torch.full((self.capacity + 1,), -1, device=slots_SN.device)
                place_S[slots_SN[:, 0]] = torch.arange(count, device=slots_SN.device)
                # The last of these stands for what was forgotten.
                owner_T = place_S[self._slot_of_BT[row, :appended]]
            index_SNC = slots_SN[..., None].expand(-1, -1, self.tokens_BSNC.shape[-1])
            held.append(
                BankEntries(
                    self.tokens_BSNC[row].gather(0, index_SNC),
                    sizes_SN.to(self._weight_dtype),
                    first_SN.clone(),
                    appended,
                    owner_T,
                )
            )
        return held

    def _flat(self, slots_BN: Tensor) -> Tensor:
        """Flat places [..., B, N] of slots of the active rows."""
        return self._base_BN[: self.active] + slots_BN * self.positions

    def _similarity(self, a_BNC: Tensor, b_BNC: Tensor) -> Tensor:
        """Cosine [..., B, N] of the active rows' entries, 0 at padding."""
        if self._compared < a_BNC.shape[-1]:
            a_BNC, b_BNC = a_BNC[..., : self._compared], b_BNC[..., : self._compared]
        similarity_BN = F.cosine_similarity(a_BNC, b_BNC, dim=-1)
        if self._present_BN is not None:
            similarity_BN = similarity_BN.masked_fill(~self._present_BN[: self.active], 0)
        return similarity_BN

    def _compress(self) -> tuple[Tensor, Tensor] | None:
        """Free one slot of every position of the active rows; it becomes the last in time order.

        Returns the places [2, B * N] of the merged pairs and the weight of the second ones; None if an entry was
        dropped.
        """
        known_3SBN = self._known_3SBN[:, :, : self.active]
        merged: tuple[Tensor, Tensor] | None
        if self._pairs is not None:
            merged, gone_BN = self._merge_any(self._pairs)
        else:
            pair_BN = self.policy.choose(
                self._similarity_SBN[:, : self.active].movedim(0, -1), known_3SBN[_SIZE].movedim(0, -1)
            )
            merged = self._merge_neighbours(pair_BN) if self.policy.merges else None
            gone_BN = pair_BN + 1 if self.policy.merges else pair_BN
        gone_1BN = gone_BN[None]
        freed_1BN = known_3SBN[_SLOT].gather(0, gone_1BN)
        # Close the gap: entry k of the new order is k of the old one, or k + 1 from the gap on.
        kept_S11 = self._time_S11[:-1]
        source_SBN = kept_S11 + (kept_S11 >= gone_1BN)
        known_3SBN[:, :-1] = known_3SBN.gather(1, source_SBN.expand(3, -1, -1, -1))
        known_3SBN[_SLOT, -1:] = freed_1BN
        return merged

    def _merge_neighbours(self, pair_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Merge the entry at ``pair_BN`` with its successor, and update the similarities."""
        with_neighbours = self.policy.uses_similarity and self.capacity > 2
        # The pair and, if similarities are kept, the entries before and after it.
        around = (pair_BN + self._around_411[: 4 if with_neighbours else 2]).clamp(0, self.capacity - 1)
        places, weight_B1, merged_BC, neighbours = self._merge(around)
        if neighbours:
            near_2BNC = torch.stack(neighbours).view(2, *pair_BN.shape, -1)
            self._close_similarity(pair_BN, around[2], near_2BNC, merged_BC.view(*pair_BN.shape, -1))
        return places, weight_B1

    def _merge_any(self, pairs: SimilarPairs) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Join the most similar two entries, wherever they are; gives also which entry [B, N] is gone."""
        slots_SB = self._known_3SBN[_SLOT, :, : self.active, 0]
        earlier_B, later_B = pairs.most_similar(slots_SB.T)
        pair_2BN = torch.stack([earlier_B, later_B])[..., None].expand(-1, -1, self.positions)
        places, weight_B1, _, _ = self._merge(pair_2BN)
        left_B1, right_B1 = (slots_SB.gather(0, place_B[None]).T for place_B in (earlier_B, later_B))
        of_active = self._slot_of_BT[: self.active]
        self._slot_of_BT[: self.active] = torch.where(of_active == right_B1, left_B1, of_active)
        self._compare(pairs, left_B1[:, 0])
        return (places, weight_B1), pair_2BN[1]

    def _compare(self, pairs: SimilarPairs, slot_B: Tensor) -> None:
        present_BN = None if self._present_BN is None else self._present_BN[: self.active]
        pairs.renew(self.tokens_BSNC[: self.active, ..., : self._compared], slot_B, present_BN)

    def _merge(self, around: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Join the first two entries of ``around`` [2 or 4, B, N] into the first: the mean weighted by frames.

        Gives their places [2, B * N], the second one's weight, the merged tokens, and those of what else is around.
        """
        slots_SBN, _, sizes_SBN = self._known_3SBN[:, :, : self.active]
        places = self._flat(slots_SBN.gather(0, around)).flatten(1)
        flat = self.tokens_BSNC.view(-1, self.tokens_BSNC.shape[-1])
        left_BC, right_BC, *others = flat.index_select(0, places.flatten()).chunk(len(around))
        sizes_2BN = sizes_SBN.gather(0, around[:2])
        merged_BC, weight_B1 = merged(left_BC, right_BC, sizes_2BN.to(self._weight_dtype).view(2, -1, 1))
        flat[places[0]] = merged_BC
        sizes_SBN.scatter_(0, around[:1], sizes_2BN.sum(0)[None])
        return places[:2], weight_B1, merged_BC, others

    def _close_similarity(
        self, pair_BN: Tensor, before_BN: Tensor, near_2BNC: Tensor, merged_BNC: Tensor
    ) -> None:
        """Drop the pair's own similarity, and update those of the merged entry with its neighbours."""
        similarity_SBN = self._similarity_SBN[:, : self.active]
        kept_S11 = self._time_S11[:-2]
        similarity_SBN[:-1] = similarity_SBN.gather(0, kept_S11 + (kept_S11 >= pair_BN))
        near_2BN = self._similarity(near_2BNC, merged_BNC)
        # If the merged entry is the first, the right value overwrites the left one; if it is the last, the next append
        # overwrites the right value.
        similarity_SBN.scatter_(0, before_BN[None], near_2BN[:1])
        similarity_SBN.scatter_(0, pair_BN[None], near_2BN[1:])
