"""How alike any two entries of a memory bank are, kept from one append to the next.

For policies that may merge entries that are not neighbours, such as the episodic compressor of HERMES. They choose
whole frames: the similarity of two entries is the mean over the token positions of the cosines there.

Shape suffixes: B rows, S physical slots, N token positions, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SimilarPairs"]


class SimilarPairs:
    """Similarities of all entries of ``rows`` rows with each other, by physical slot."""

    def __init__(self, rows: int, capacity: int, *, device: torch.device | str, dtype: torch.dtype) -> None:
        self._similarity_BSS = torch.zeros(rows, capacity, capacity, device=device, dtype=dtype)

    def renew(self, tokens_BSNC: Tensor, slot_B: Tensor, present_BN: Tensor | None = None) -> None:
        """Compare the entry in slot ``slot_B`` of each of the first B rows with all others.

        Slots that hold no entry get a number that means nothing, until something is written there.
        Positions where ``present_BN`` is false count as 0.
        """
        rows = torch.arange(len(slot_B), device=slot_B.device)
        cosine_BSN = F.cosine_similarity(tokens_BSNC[rows, slot_B][:, None], tokens_BSNC, dim=-1)
        if present_BN is not None:
            cosine_BSN = cosine_BSN.masked_fill(~present_BN[:, None], 0)
        mean_BS = cosine_BSN.mean(-1)
        self._similarity_BSS[rows, slot_B] = mean_BS
        self._similarity_BSS[rows, :, slot_B] = mean_BS

    def most_similar(self, order_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The two most similar entries of each row, as places (earlier [B], later [B]) in ``order_BS``.

        ``order_BS`` are slots in the order of their entries, all of which hold one. Of equals the earliest wins.
        """
        count = order_BS.shape[1]
        in_order_BSS = self._similarity_BSS[: len(order_BS)]
        in_order_BSS = in_order_BSS.gather(1, order_BS[:, :, None].expand(-1, -1, in_order_BSS.shape[2]))
        in_order_BSS = in_order_BSS.gather(2, order_BS[:, None, :].expand(-1, count, -1))
        pairs = torch.ones(count, count, dtype=torch.bool, device=order_BS.device).triu(1)
        best_B = in_order_BSS.masked_fill(~pairs, -torch.inf).flatten(1).argmax(-1)
        return best_B // count, best_B % count
