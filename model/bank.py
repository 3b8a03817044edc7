"""A memory bank: at most M entries of past states, kept in place.

The visual memory bank and the query memory banks of MA-LMM (He et al., CVPR 2024, section 3) are the same
structure. Three properties keep its cost to the new entry:

* Keys and values are affine in the entry, and a merge's weights sum to one, so the merge of the keys is the
  key of the merge. They are stored beside the entry (``companions``) and only ever projected once.
* Attention does not care about the order of its keys. An entry stays in the physical slot that it was
  written to; a merge leaves its result in one slot and frees the other, token position by token position,
  and the next entry is written there. Time order is an index. A full bank has no holes and needs no mask.
* A merge changes two similarities of neighbours and an append adds one. The others are kept.

Shape suffixes: B rows, S physical slots or entries in time order, N token positions, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from malmm.model.policies import MergePolicy

__all__ = ["Bank", "BankEntries"]


class BankEntries:
    """What one row of a bank holds, in time order.

    ``tokens`` [S, N, C]; ``sizes`` [S, N], frames held by each position; ``first`` [S, N] int64, the
    ordinal of the first appended entry that each position covers. Policies join neighbours only, so position
    n of entry s covers ordinals ``first[s, n]`` up to ``first[s + 1, n]``, or up to ``appended`` at the end.
    """

    __slots__ = ("appended", "first", "sizes", "tokens")

    def __init__(self, tokens: Tensor, sizes: Tensor, first: Tensor, appended: int) -> None:
        self.tokens = tokens
        self.sizes = sizes
        self.first = first
        self.appended = appended

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return f"BankEntries(tokens={tuple(self.tokens.shape)}, appended={self.appended})"


class Bank:
    """Preallocated memory of ``rows`` independent sequences that advance in lock step.

    Every step is ``advance()`` and then ``write()``. Compression is lazy: a bank holds up to ``length`` + 1
    entries between steps, as attention must see them, and makes room when the next one comes or at
    ``finish()``. Rows that have ended are the last ones: ``retire(active)`` leaves them as they are.

    ``length`` 0 switches the memory off: only the newest entry is held. ``steps`` is the largest number of
    entries that will be appended, which bounds the allocation. ``present_BN`` is false at positions that are
    padding: they count for nothing where a policy looks at all positions of an entry together.
    """

    def __init__(
        self,
        *,
        rows: int,
        length: int,
        steps: int,
        positions: int,
        channels: int,
        companions: Sequence[int] = (),
        policy: MergePolicy,
        device: torch.device | str,
        dtype: torch.dtype,
        present_BN: Tensor | None = None,
    ) -> None:
        if length < 0 or steps < 1 or rows < 1:
            raise ValueError(f"a bank of {rows} rows, length {length}, {steps} steps cannot be")
        self.policy = policy
        self.length = length
        self._present_BN = present_BN
        self.capacity = steps if not policy.bounded else min(steps, length + 1)
        self.positions = positions
        self.rows = rows
        self.active = rows
        self.count = 0
        self.appended = 0
        self._compressed = False
        self._row_count = [0] * rows
        self._row_appended = [0] * rows
        shape_BSN = (rows, self.capacity, positions)
        self.tokens_BSNC = torch.empty(*shape_BSN, channels, device=device, dtype=dtype)
        self.companions_BSND = [torch.empty(*shape_BSN, d, device=device, dtype=dtype) for d in companions]
        shape_BNS = (rows, positions, self.capacity)
        self._order_BNS = (
            torch.arange(self.capacity, device=device).expand(shape_BNS).contiguous()
        )  # time order -> slot
        self._sizes_BNS = torch.zeros(
            shape_BNS, device=device, dtype=torch.promote_types(dtype, torch.float32)
        )
        self._first_BNS = torch.zeros(shape_BNS, device=device, dtype=torch.int64)
        pairs = max(self.capacity - 1, 1)
        self._similarity_BNS = torch.zeros(rows, positions, pairs, device=device, dtype=dtype)
        # Flat index of slot 0 of (row, position); slot s is `positions` * s further on.
        row_B1 = torch.arange(rows, device=device)[:, None] * (self.capacity * positions)
        self._base_BN = row_B1 + torch.arange(positions, device=device)
        self._time_S = torch.arange(self.capacity, device=device)
        self._write_BN: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes allocated for entries and companions."""
        return sum(t.numel() * t.element_size() for t in (self.tokens_BSNC, *self.companions_BSND))

    def retire(self, active: int) -> None:
        """Keep only the first ``active`` rows going; the others have ended and stay as they are."""
        if not 0 <= active <= self.active:
            raise ValueError(f"{active} rows cannot be active of {self.active}")
        self.active = active

    def advance(self, sizes_BN: Tensor | None = None) -> None:
        """Make room for one more entry of every active row; ``write`` says what it is.

        ``sizes_BN`` is how many frames the new entry's positions hold, one each unless told otherwise.
        """
        active = self.active
        self._note_similarity()
        if self.length == 0 and self.policy.bounded:
            self.count = 1
        elif self.count == self.capacity:
            if not self.policy.bounded:
                raise ValueError(f"a bank for {self.capacity} entries was given one more")
            if self.capacity <= self.length:
                raise ValueError(f"a bank told of {self.capacity} steps was given one more")
            self._compress()
        else:
            self.count += 1
        newest = self.count - 1
        self._first_BNS[:active, :, newest] = self.appended
        if sizes_BN is None:
            self._sizes_BNS[:active, :, newest] = 1
        else:
            self._sizes_BNS[:active, :, newest] = sizes_BN
        self.appended += 1
        for row in range(active):
            self._row_count[row] = self.count
            self._row_appended[row] = self.appended
        if self._compressed:
            self._write_BN = self._flat_BN(self._order_BNS[:active, :, newest])

    def write(self, tokens_BNC: Tensor, companions_BND: Sequence[Tensor] = ()) -> None:
        """Put the new entry of all active rows in place, with its companions."""
        self.write_rows(slice(None), tokens_BNC, companions_BND)

    def write_rows(self, rows: slice, tokens_BNC: Tensor, companions_BND: Sequence[Tensor] = ()) -> None:
        """Put the new entry of the active rows that ``rows`` selects in place."""
        values = (tokens_BNC, *companions_BND)
        buffers = (self.tokens_BSNC, *self.companions_BSND)
        for buffer_BSND, value_BND in zip(buffers, values, strict=True):
            if self._write_BN is None:  # never compressed: the newest entry is slot count-1 everywhere
                buffer_BSND[: self.active][rows, self.count - 1] = value_BND
            else:
                flat = buffer_BSND.view(-1, buffer_BSND.shape[-1])
                index = self._write_BN[rows].reshape(-1)
                # Six times as fast as `index_copy_` on the CPU.
                flat[index] = value_BND.reshape(-1, value_BND.shape[-1]).to(flat.dtype)

    def finish(self) -> list[BankEntries]:
        """Compress every row to the bank's length and give what each holds. Ends the bank's use."""
        full = sum(count > max(self.length, 1) for count in self._row_count) if self.policy.bounded else 0
        if full:
            # Rows that hold one too many are the longest ones, so they come first.
            self.active = full
            self.count = self.capacity
            self._note_similarity()
            self._compress()
            self._row_count[:full] = [self.capacity - 1] * full
        return self.entries()

    def entries(self) -> list[BankEntries]:
        """What each row holds now, in time order, before any further compression."""
        held = []
        for row, (count, appended) in enumerate(zip(self._row_count, self._row_appended, strict=True)):
            order_SN = self._order_BNS[row, :, :count].T
            index_SNC = order_SN[..., None].expand(-1, -1, self.tokens_BSNC.shape[-1])
            held.append(
                BankEntries(
                    self.tokens_BSNC[row].gather(0, index_SNC),
                    self._sizes_BNS[row, :, :count].T.contiguous(),
                    self._first_BNS[row, :, :count].T.contiguous(),
                    appended,
                )
            )
        return held

    def _flat_BN(self, slot_BN: Tensor) -> Tensor:
        return self._base_BN[: self.active] + slot_BN * self.positions

    def _note_similarity(self) -> None:
        """Compute the similarity that the last write added."""
        if self.count < 2 or not self.policy.uses_similarity:
            return
        newest = self.count - 1
        a_BNC = self._at_time(torch.full((), newest - 1, device=self._time_S.device))
        b_BNC = self._at_time(torch.full((), newest, device=self._time_S.device))
        self._similarity_BNS[: self.active, :, newest - 1] = self._similarity(a_BNC, b_BNC)

    def _similarity(self, a_BNC: Tensor, b_BNC: Tensor) -> Tensor:
        """Cosine [B, N] of the active rows' entries, 0 at padding."""
        similarity_BN = F.cosine_similarity(a_BNC, b_BNC, dim=-1)
        if self._present_BN is not None:
            similarity_BN = similarity_BN.masked_fill(~self._present_BN[: self.active], 0)
        return similarity_BN

    def _at_time(self, time: Tensor) -> Tensor:
        """Entries [B, N, C] of the active rows at ``time``, an index or a [B, N] of them."""
        order_BNS = self._order_BNS[: self.active]
        slot_BN = order_BNS.gather(2, time.expand(order_BNS.shape[:2])[..., None])[..., 0]
        flat = self.tokens_BSNC.view(-1, self.tokens_BSNC.shape[-1])
        index_BN = self._flat_BN(slot_BN)
        return flat.index_select(0, index_BN.reshape(-1)).view(*index_BN.shape, -1)

    def _compress(self) -> None:
        """Free one slot of every position of the active rows; it becomes the last in time order."""
        order_BNS = self._order_BNS[: self.active]
        sizes_BNS = self._sizes_BNS[: self.active]
        first_BNS = self._first_BNS[: self.active]
        pair_BN1 = self.policy.choose(self._similarity_BNS[: self.active], sizes_BNS)[..., None]
        if self.policy.merges:
            self._merge(pair_BN1)
            gone_BN1 = pair_BN1 + 1
        else:
            gone_BN1 = pair_BN1
        freed_BN1 = order_BNS.gather(2, gone_BN1)
        # Close the gap: entry k of the new order is k of the old one, or k + 1 from the gap on.
        kept_S = self._time_S[:-1]
        source_BNS = kept_S + (kept_S >= gone_BN1)
        for index_BNS in (order_BNS, sizes_BNS, first_BNS):
            index_BNS[..., :-1] = index_BNS.gather(2, source_BNS)
        order_BNS[..., -1:] = freed_BN1
        if self.policy.uses_similarity and self.capacity > 2:
            self._close_similarity(pair_BN1)
        self._compressed = True

    def _merge(self, pair_BN1: Tensor) -> None:
        """Join the pair into its first entry: the mean weighted by how many frames each side holds."""
        order_BNS = self._order_BNS[: self.active]
        sizes_BNS = self._sizes_BNS[: self.active]
        left_B = self._flat_BN(order_BNS.gather(2, pair_BN1)[..., 0]).reshape(-1)
        right_B = self._flat_BN(order_BNS.gather(2, pair_BN1 + 1)[..., 0]).reshape(-1)
        size_left = sizes_BNS.gather(2, pair_BN1)
        size_right = sizes_BNS.gather(2, pair_BN1 + 1)
        total = size_left + size_right
        dtype = self.tokens_BSNC.dtype
        flat = self.tokens_BSNC.view(-1, self.tokens_BSNC.shape[-1])
        # In the authors' order of operations, so that a single compression equals theirs to the last bit.
        weighted = flat.index_select(0, left_B) * size_left.reshape(-1, 1)
        weighted += flat.index_select(0, right_B) * size_right.reshape(-1, 1)
        flat[left_B] = (weighted / total.reshape(-1, 1)).to(dtype)
        weight_B1 = (size_right / total).to(dtype).reshape(-1, 1)
        for buffer_BSND in self.companions_BSND:
            flat = buffer_BSND.view(-1, buffer_BSND.shape[-1])
            flat[left_B] = flat.index_select(0, left_B).lerp_(flat.index_select(0, right_B), weight_B1)
        sizes_BNS.scatter_(2, pair_BN1, total)

    def _close_similarity(self, pair_BN1: Tensor) -> None:
        """Drop the pair's own similarity and renew those of the merged entry."""
        similarity_BNS = self._similarity_BNS[: self.active]
        kept_S = self._time_S[:-2]
        similarity_BNS[..., :-1] = similarity_BNS.gather(2, kept_S + (kept_S >= pair_BN1))
        pair_BN = pair_BN1[..., 0]
        last = self.capacity - 2  # newest entry that is left
        merged_BNC = self._at_time(pair_BN)
        before_BN = (pair_BN - 1).clamp(min=0)
        after_BN = (pair_BN + 1).clamp(max=last)
        left_BN = self._similarity(self._at_time(before_BN), merged_BNC)
        right_BN = self._similarity(merged_BNC, self._at_time(after_BN))
        # Where the merged entry is the first, the left value is written over by the right one; where it is
        # the last, the right value lands where the next append puts its own.
        similarity_BNS.scatter_(2, before_BN[..., None], left_BN[..., None])
        similarity_BNS.scatter_(2, pair_BN1, right_BN[..., None])
