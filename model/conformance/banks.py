"""Recorded compression steps and online passes, through the banks and the Q-Former that ship."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from malmm.model.conformance.cases import CaseError, largest_error, recorded_qformer, under
from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer
from malmm.model.memory.bank import Bank, BankEntries
from malmm.model.memory.merge_policies import merge_policy

__all__ = ["check_compression", "check_online", "compress_once"]


def _stack(rows: list[BankEntries]) -> tuple[Tensor, Tensor]:
    return torch.stack([row.tokens for row in rows]), torch.stack([row.sizes for row in rows])


def compress_once(bank_BTNC: Tensor, size_BTN: Tensor) -> tuple[Tensor, Tensor]:
    """One compression of a full bank: ([B, T-1, N, C], sizes [B, T-1, N])."""
    rows, entries, positions, channels = bank_BTNC.shape
    bank = Bank(
        rows=rows,
        length=entries - 1,
        steps=entries,
        positions=positions,
        channels=channels,
        policy=merge_policy("token"),
        device=bank_BTNC.device,
        dtype=bank_BTNC.dtype,
    )
    for entry in range(entries):
        bank.append(bank_BTNC[:, entry], size_BTN[:, entry])
    return _stack(bank.finish())


def _as_the_authors_round(ours_BTNC: Tensor, sizes_BTN: Tensor, before_BTN: Tensor) -> Tensor:
    """Multiply entries that were not merged by their size, and divide them by it again.

    The authors' code does so with every entry at every compression, which in float32 may change the last bit. Ours
    leaves those entries unchanged.
    """
    merged_BTN = (sizes_BTN != before_BTN[:, :-1]).cumsum(1).eq(1) & (sizes_BTN != before_BTN[:, :-1])
    rounded_BTNC = ours_BTNC * sizes_BTN[..., None] / sizes_BTN[..., None]
    return torch.where(merged_BTN[..., None], ours_BTNC, rounded_BTNC)


def check_compression(name: str, tensors: dict[str, Tensor]) -> Iterator[CaseError]:
    """Errors of every compression step in a file."""
    for case in sorted({key.split(".")[0] for key in tensors}, key=lambda c: (len(c), c)):
        bank, size = tensors[f"{case}.bank"], tensors[f"{case}.size"]
        ours, sizes = compress_once(bank, size)
        ours = _as_the_authors_round(ours, sizes, size)
        yield CaseError(f"{name}:{case}", "bank", largest_error(ours, tensors[f"{case}.out_bank"]))
        yield CaseError(f"{name}:{case}", "size", largest_error(sizes, tensors[f"{case}.out_size"]))


def _online_pass(
    qformer: OnlineQFormer, tensors: dict[str, Tensor], settings: MemorySettings
) -> tuple[Tensor, list[BankEntries]]:
    frames_BTNC = tensors["frames"].to(torch.float64)
    steps = frames_BTNC.shape[1]
    state = qformer.start(
        tensors["input_ids"][:, None],
        tensors["attention_mask"][:, None],
        steps=steps,
        tokens_per_frame=frames_BTNC.shape[2],
        settings=settings,
    )
    outputs = []
    for step in range(steps):
        output = qformer.step(state, frames_BTNC[:, step : step + 1])
        if output is not None:
            outputs.append(output)
    return torch.stack(outputs, dim=1), state.visual.entries()


def check_online(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[CaseError]:
    """Errors of an online pass with both banks and with the visual bank alone."""
    qformer = recorded_qformer(under(tensors, "weights."), tensors["query_tokens"], metadata)
    length = int(metadata["M"])
    ours, held = _online_pass(qformer, tensors, MemorySettings(length=length))
    yield CaseError(name, "both banks", largest_error(ours, tensors["hidden_states"]))
    bank, sizes = _stack(held)
    yield CaseError(name, "final bank", largest_error(bank, tensors["final_visual_bank"]))
    yield CaseError(name, "final size", largest_error(sizes, tensors["final_visual_size"]))
    ours, _ = _online_pass(qformer, tensors, MemorySettings(length=length, query=False))
    yield CaseError(name, "visual bank only", largest_error(ours, tensors["hidden_states_visual_bank_only"]))
