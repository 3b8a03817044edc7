"""Compare recorded outputs of the authors' implementation with this one's.

``python -m malmm.model.conformance DIR`` reads every ``*.safetensors`` file of DIR and prints the largest absolute
error of each case. There are two kinds of files, recognised by their tensors:

* compression: ``case{i}.bank`` [B, T, N, C], ``case{i}.size`` [B, T, N] in, ``case{i}.out_bank``
  [B, T-1, N, C] and ``case{i}.out_size`` [B, T-1, N] out, one step;
* an online pass: ``weights.*`` of a Q-Former, ``query_tokens`` [1, Q, D], ``frames`` [B, T, N, C],
  ``input_ids`` and ``attention_mask`` [B, L] in; ``hidden_states`` [B, T, Q+L, D],
  ``hidden_states_visual_bank_only`` and the bank after the last frame out; sizes in the file's metadata.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer
from malmm.model.memory.bank import Bank, BankEntries
from malmm.model.memory.policies import merge_policy

__all__ = ["TOLERANCE", "CaseError", "check_directory", "check_file", "main"]

TOLERANCE = 1e-10


@dataclass(frozen=True)
class CaseError:
    """The largest absolute error of one compared tensor of one case."""

    case: str
    compared: str
    error: float


def _largest_error(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    error = (ours.to(torch.float64) - theirs.to(torch.float64)).abs().max().item()
    return float("inf") if error != error else error  # a NaN compares with nothing


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


def _check_compression(name: str, tensors: dict[str, Tensor]) -> Iterator[CaseError]:
    for case in sorted({key.split(".")[0] for key in tensors}, key=lambda c: (len(c), c)):
        bank, size = tensors[f"{case}.bank"], tensors[f"{case}.size"]
        ours, sizes = compress_once(bank, size)
        ours = _as_the_authors_round(ours, sizes, size)
        yield CaseError(f"{name}:{case}", "bank", _largest_error(ours, tensors[f"{case}.out_bank"]))
        yield CaseError(f"{name}:{case}", "size", _largest_error(sizes, tensors[f"{case}.out_size"]))


def _qformer(tensors: dict[str, Tensor], metadata: dict[str, str]) -> OnlineQFormer:
    weights = {
        key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")
    }
    config = InstructBlipQFormerConfig(
        vocab_size=int(metadata["vocab"]),
        hidden_size=int(metadata["hidden"]),
        num_hidden_layers=int(metadata["layers"]),
        num_attention_heads=int(metadata["heads"]),
        intermediate_size=int(metadata["inter"]),
        encoder_hidden_size=int(metadata["enc"]),
        cross_attention_frequency=int(metadata["cross_attention_frequency"]),
        layer_norm_eps=float(metadata["layer_norm_eps"]),
        max_position_embeddings=weights["embeddings.position_embeddings.weight"].shape[0],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = InstructBlipQFormerModel(config).to(torch.float64).eval()
    model.load_state_dict({key: value.to(torch.float64) for key, value in weights.items()}, strict=True)
    query = nn.Parameter(tensors["query_tokens"].to(torch.float64))
    return OnlineQFormer(model, query)


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


def _check_online(name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[CaseError]:
    qformer = _qformer(tensors, metadata)
    length = int(metadata["M"])
    ours, held = _online_pass(qformer, tensors, MemorySettings(length=length))
    yield CaseError(name, "both banks", _largest_error(ours, tensors["hidden_states"]))
    bank, sizes = _stack(held)
    yield CaseError(name, "final bank", _largest_error(bank, tensors["final_visual_bank"]))
    yield CaseError(name, "final size", _largest_error(sizes, tensors["final_visual_size"]))
    ours, _ = _online_pass(qformer, tensors, MemorySettings(length=length, query=False))
    yield CaseError(name, "visual bank only", _largest_error(ours, tensors["hidden_states_visual_bank_only"]))


def check_file(path: Path) -> list[CaseError]:
    """The errors of every case in one file. Raises ValueError for a file in another format."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        with torch.inference_mode():
            if "frames" in tensors:
                return list(_check_online(path.stem, tensors, metadata))
            if any(key.endswith(".out_bank") for key in tensors):
                return list(_check_compression(path.stem, tensors))
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}, which the format asks for") from error
    except Exception as error:  # a size that is not a number, an unknown word, weights of another shape, ...
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit the sizes it states: {reason}") from error
    raise ValueError(f"{path} holds neither a compression nor an online pass")


def check_directory(directory: Path) -> list[CaseError]:
    """The errors of every file in ``directory``. Raises ValueError if there is nothing to check."""
    if not directory.is_dir():
        raise ValueError(f"{directory} is not a directory")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{directory} holds no .safetensors file")
    return [error for file in files for error in check_file(file)]


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit code 0 if every error is within tolerance, 1 if one is not, 2 if DIR cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m malmm.model.conformance",
        description="Replay recorded outputs of the authors' MA-LMM implementation through this one.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="a directory of .safetensors files")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest absolute error (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        errors = check_directory(arguments.directory)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    width = max(len(error.case) for error in errors)
    for case in errors:
        verdict = "ok" if case.error <= arguments.tolerance else "TOO LARGE"
        print(f"{case.case:<{width}}  {case.compared:<16}  {case.error:.3e}  {verdict}")
    worst = max(errors, key=lambda error: error.error)
    failed = sum(error.error > arguments.tolerance for error in errors)
    print(
        f"largest error {worst.error:.3e} ({worst.case}, {worst.compared}); {failed} of {len(errors)} too large"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
