"""Merge policies: choose which entries of a full memory bank are merged, or which one is dropped.

A policy is called once a frame, when a bank has one entry more than its length. It returns one index in time order for
each row and token position. A merging policy merges the entry at that index with its successor, weighted by their
numbers of frames; ``fifo`` drops the entry instead.

``episode`` alone joins entries that need not be neighbours: the most similar two of all, as the episodic compressor
(ECO) of HERMES does (Faure et al., "HERMES: temporal-coHERent long-forM understanding with Episodes and Semantics",
ICCV 2025, arXiv 2408.17443). Whole frames are compared, by the mean of their positions' cosines. Where the paper takes
the plain mean of the two, the mean here is weighted by frames as with all policies, so that an entry is the mean of the
frames that it covers. The merged entry stands where the earlier of the two stood: entries are in the order of their
first frames. What an entry covers may have gaps, so the bank keeps which entry each frame is in.

Shape suffixes: B rows, N token positions, S entries in time order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Whoever only names a policy, as the driver of a run does, need not load it.
    from torch import Tensor

__all__ = ["POLICIES", "MergePolicy", "merge_policy"]


@dataclass(frozen=True)
class MergePolicy:
    """One way to keep a bank within its length.

    ``choose(similarity [B, N, S-1], sizes [B, N, S]) -> index [B, N]`` (int64, below S-1). ``similarity`` is the cosine
    of neighbours; it is not computed, and undefined, if ``uses_similarity`` is false. ``merges`` is false for a policy
    that drops entries, which may not use similarity. ``choose`` is never called of a policy that is not ``bounded``,
    nor of one that is not ``adjacent``, which merges the two most similar entries, neighbours or not.
    """

    name: str
    choose: Callable[[Tensor, Tensor], Tensor]
    uses_similarity: bool = False
    merges: bool = True
    bounded: bool = True
    adjacent: bool = True


def _most_similar_per_token(similarity_BNS: Tensor, sizes_BNS: Tensor) -> Tensor:
    # argmax takes the first of equals, as the authors' code does.
    return similarity_BNS.argmax(dim=-1)


def _most_similar_frames(similarity_BNS: Tensor, sizes_BNS: Tensor) -> Tensor:
    pair_B1 = similarity_BNS.mean(dim=1).argmax(dim=-1, keepdim=True)
    return pair_B1.expand(-1, similarity_BNS.shape[1])


def _oldest(similarity_BNS: Tensor, sizes_BNS: Tensor) -> Tensor:
    return sizes_BNS.new_zeros(sizes_BNS.shape[:2]).long()


def _fewest_frames(similarity_BNS: Tensor, sizes_BNS: Tensor) -> Tensor:
    return (sizes_BNS[..., :-1] + sizes_BNS[..., 1:]).argmin(dim=-1)


def _never(similarity_BNS: Tensor, sizes_BNS: Tensor) -> Tensor:
    raise RuntimeError(
        "an unbounded bank cannot be full, and a policy for any two entries chooses no neighbours"
    )


POLICIES = {
    policy.name: policy
    for policy in (
        # He et al., CVPR 2024, section 3.3: the most similar neighbours, each token position on its own.
        MergePolicy("token", _most_similar_per_token, uses_similarity=True),
        # The same at frame level: one pair for all positions, by the mean of their similarities.
        MergePolicy("frame", _most_similar_frames, uses_similarity=True),
        # First in, first out.
        MergePolicy("fifo", _oldest, merges=False),
        # Average pooling over time, online: merge the neighbours with the fewest frames together, so that all entries
        # cover about the same number of frames, whatever they show.
        MergePolicy("average", _fewest_frames),
        # Faure et al., ICCV 2025: the most similar two frames, neighbours or not.
        MergePolicy("episode", _never, uses_similarity=True, adjacent=False),
        MergePolicy("none", _never, bounded=False),
    )
}


def merge_policy(name: str) -> MergePolicy:
    """The policy called ``name``. Raises ValueError that lists the valid names."""
    try:
        return POLICIES[name]
    except KeyError:
        raise ValueError(f"no merge policy {name!r}: one of {', '.join(POLICIES)}") from None
