"""Merge two entries of a memory bank into one: the mean weighted by their numbers of frames (MA-LMM, section 3.3).

Which two are merged is the policy's choice (``merge_policies.py``); where they are, the bank's (``bank.py``).

Shape suffixes: B flat places, C or D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Change", "merged"]


def merged(left_BC: Tensor, right_BC: Tensor, sizes_2B1: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [B, C] of two entries, weighted by their numbers of frames, and the weight [B, 1] of the second.

    Computed in the type of ``sizes_2B1``, in the authors' order of operations, so that a single compression equals
    theirs to the last bit.
    """
    left_B1, right_B1 = sizes_2B1
    total_B1 = left_B1 + right_B1
    weighted_BC = left_BC * left_B1
    weighted_BC += right_BC * right_B1
    return (weighted_BC / total_B1).to(left_BC.dtype), right_B1 / total_B1


@dataclass(frozen=True)
class Change:
    """The changes of one append, in physical places, so that other buffers can follow.

    Places are flat indices (row, slot, position) of a [B, S, N] buffer. ``count`` is the number of entries after the
    append. If two entries were merged, the second of ``pair_2B`` was merged into the first with weight ``weight_B1``.
    """

    count: int
    newest_B: Tensor
    pair_2B: Tensor | None = None
    weight_B1: Tensor | None = None

    def apply(self, buffer_BSND: Tensor, newest_BND: Tensor) -> None:
        """Apply the same change to a buffer of values that are affine in the entries, such as keys.

        ``newest_BND`` are the values of the appended entry. Apply all changes of a bank, in order.
        """
        flat = buffer_BSND.view(-1, buffer_BSND.shape[-1])
        if self.pair_2B is not None and self.weight_B1 is not None:
            left_BD, right_BD = flat.index_select(0, self.pair_2B.flatten()).chunk(2)
            # Assigning is six times as fast as `index_copy_` on the CPU.
            flat[self.pair_2B[0]] = left_BD.lerp_(right_BD, self.weight_B1.to(flat.dtype))
        flat[self.newest_B] = newest_BND.reshape(-1, flat.shape[-1]).to(flat.dtype)
