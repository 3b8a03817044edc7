"""What both banks hold at a video's last frame: a pass of the shipped code, without gradient.

Training by the paper's recipe begins with it, whether it fine-tunes a checkpoint or makes the demo model: the last step
(``malmm.model.training.last_step``) is then computed once more, with gradient.

Shape suffixes: V videos, S entries, N visual tokens, C channels, P positions, D hidden size, L prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from malmm.model.families.instructblip.qformer import OnlineQFormer, OnlineState
from malmm.model.memory.settings import MemorySettings

__all__ = ["Remembered", "remembered", "together"]

# Videos times frames of one call of the Q-Former.
_ROWS_AT_ONCE = 128


@dataclass(frozen=True, eq=False)
class Remembered:
    """What banks hold after each video's last frame, whose own query states are left out.

    ``visual`` [V, S, N, C] and ``visual_present`` [V, S], aligned at the end: the last entry is the newest. ``past``
    has [V, S, P, D] for each layer's query bank but the first's, and ``past_present`` [V, S] which of them are there.
    """

    visual: Tensor
    visual_present: Tensor
    past: list[Tensor]
    past_present: Tensor


@torch.no_grad()
def remembered(
    qformer: OnlineQFormer,
    entries: Sequence[Tensor],
    prompt_ids_VL: Tensor,
    prompt_mask_VL: Tensor,
    settings: MemorySettings,
    *,
    sizes: Sequence[Tensor] | None = None,
) -> Remembered:
    """Run the online pass over videos [T, N, C] with positions, ordered from the longest to the shortest.

    ``sizes`` [T, N] are the numbers of frames in each position, if the entries are stored slots. Raises ValueError
    without query banks: such a pass keeps no past to learn from.
    """
    if not settings.query:
        raise ValueError("training needs the query banks")
    # In full precision even where a training step is not: as indexing does, and as banks are.
    with torch.autocast(entries[0].device.type, enabled=False):
        state = _pass(qformer, entries, prompt_ids_VL, prompt_mask_VL, settings, sizes)
    visual, visual_present = together([held.tokens for held in state.visual.entries()])
    # Every layer's bank has seen the same frames, so what is present is the same in all.
    by_layer = [together([held.tokens[:-1] for held in bank.entries()]) for bank in state.query]
    if not by_layer:
        raise ValueError("a Q-Former of one layer has no query bank to learn from")
    return Remembered(visual, visual_present, [rows for rows, _ in by_layer], by_layer[0][1])


def _pass(
    qformer: OnlineQFormer,
    entries: Sequence[Tensor],
    prompt_ids_VL: Tensor,
    prompt_mask_VL: Tensor,
    settings: MemorySettings,
    sizes: Sequence[Tensor] | None,
) -> OnlineState:
    lengths = [len(video) for video in entries]
    state = qformer.start(
        prompt_ids_VL[:, None],
        prompt_mask_VL[:, None],
        steps=lengths[0],
        tokens_per_frame=entries[0].shape[1],
        settings=settings,
    )
    begin = 0
    while begin < lengths[0]:
        active = sum(length > begin for length in lengths)
        if active < state.active:
            state.retire(active)
        end = min(lengths[active - 1], begin + max(1, _ROWS_AT_ONCE // active))
        seen = torch.stack([video[begin:end] for video in entries[:active]])
        counts = None if sizes is None else torch.stack([each[begin:end] for each in sizes[:active]])
        qformer.step(state, seen, want_output=False, sizes_STN=counts)
        begin = end
    return state


def together(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Memories of different lengths as one tensor [V, S, ...], aligned at the end, and a mask of their entries."""
    longest = max(map(len, rows))
    stacked = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
    present = torch.zeros(len(rows), longest, dtype=torch.bool, device=rows[0].device)
    for place, row in enumerate(rows):
        stacked[place, longest - len(row) :] = row
        present[place, longest - len(row) :] = True
    return stacked, present
