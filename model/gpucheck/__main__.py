"""Check this package's models on the GPU at hand, and print a table in Markdown.

Needs torch and transformers alone. Weights are random, at the sizes of published checkpoints, so nothing is downloaded.
Ends with 0 only if every check holds; timings are no checks.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import torch
import transformers

from malmm.model.families.registry import row_of
from malmm.model.footprint import footprints_of
from malmm.model.gpucheck import timings
from malmm.model.gpucheck.checks import Outcome, checks
from malmm.model.gpucheck.cuda import driver_version, peak_bytes, recorded
from malmm.model.gpucheck.random_checkpoint import RandomCheckpoint, tiny
from malmm.model.published.catalogue import catalogue, published

__all__ = ["MODELS", "main"]

#: One of each family, of a size that most cards hold.
MODELS = ("smolvlm2-500m", "llava-onevision-0.5b", "qwen3-vl-2b", "qwen3.5-2b", "vicuna-7b", "flan-t5-xl")
_FREE_SHARE = 0.8
_Row = TypeVar("_Row")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks and timings, and return the exit code: 0, 1 if a check fails, 2 for wrong arguments."""
    names = ", ".join(model.short for model in catalogue())
    parser = argparse.ArgumentParser(
        prog="python -m malmm.model.gpucheck",
        description=__doc__,
        epilog=f"Sizes: {names}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="SIZE", help="(%(default)s)")
    parser.add_argument("--device", help="such as cuda:1 (the first GPU, else the CPU)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the check itself on a CPU")
    parser.add_argument("--no-timings", action="store_true", help="checks alone")
    options = parser.parse_args(arguments)
    models = [published(name) for name in options.models]
    if None in models:
        parser.error(f"unknown size {options.models[models.index(None)]!r}. Sizes: {names}")
    device = torch.device(options.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu" and not options.tiny:
        parser.error(
            "no GPU was found: published sizes would take hours on a CPU. --tiny tries the check itself"
        )
    real = [RandomCheckpoint.of(model, device) for model in models if model is not None]
    small = [tiny(RandomCheckpoint.of(model, torch.device("cpu"))) for model in models if model is not None]
    print(_header(device), flush=True)
    if options.tiny:
        real = small
    fitting = [checkpoint for checkpoint in real if _fits(checkpoint, device)]
    print("\n| check | | |\n|---|---|---|")
    failed = 0
    for outcome in checks(small, fitting, device):
        failed += outcome.holds is False
        print(_line(outcome), flush=True)
        _free()
    if not options.no_timings:
        _timings(fitting, device, is_tiny=options.tiny, on_card=device.type == "cuda")
    print(f"\n{failed} checks failed" if failed else "\nAll checks that could be tried hold")
    return int(failed > 0)


def _header(device: torch.device) -> str:
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {platform.machine()}",
        "torch": torch.__version__,
        "CUDA": torch.version.cuda or "none",
        "transformers": transformers.__version__,
        "Python": platform.python_version(),
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found["memory"] = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        found["driver"] = driver_version()
        found["compute capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in found.items())])


def _line(outcome: Outcome) -> str:
    holds = {True: "holds", False: "**fails**", None: "not tried"}[outcome.holds]
    return f"| {outcome.check} | {holds} | {outcome.found} |"


def _fits(checkpoint: RandomCheckpoint, device: torch.device) -> bool:
    """Whether the weights in single precision, which one check needs of the encoder, and the language model fit."""
    if device.type != "cuda":
        return True
    rows = footprints_of(checkpoint, half_bytes=2)
    parts = {
        stage: sum(row.size_bytes for row in rows if row.stage == stage) for stage in ("encode", "generate")
    }
    needed = max(2 * parts["encode"], parts["generate"])
    free, _ = torch.cuda.mem_get_info(device)
    fits = needed < _FREE_SHARE * free
    if not fits:
        print(f"\n{checkpoint.name} needs {needed / 2**30:.1f} GiB and is left out")
    return fits


def _timings(
    checkpoints: Sequence[RandomCheckpoint], device: torch.device, *, is_tiny: bool, on_card: bool
) -> None:
    flops = timings.product_flops(device, 256 if is_tiny else 8192)
    print(f"\nA matrix product in half precision: {flops / 1e12:.2f} TFLOP/s.")
    print(
        "\n| encoder | compiled | frames at once | frames/s | TFLOP/s | of the product | MiB beside weights |"
    )
    print("|---|---|---|---|---|---|---|")
    for checkpoint in checkpoints:
        # Of plain families the vision part is not compiled. On a CPU compiling takes longer than all the rest.
        for compiled in (False, True) if on_card and not row_of(checkpoint).reads_slots else (False,):
            batches = (2,) if is_tiny else (8, 32)
            for row in _timed(partial(timings.encoders, checkpoint, device, batches, compiled=compiled)):
                print(
                    f"| {row.model} | {'yes' if row.compiled else 'no'} | {row.batch} | {row.frames_a_s:.1f} | "
                    f"{row.flops / 1e12:.3f} | {row.flops / flops:.0%} | {row.peak_bytes / 2**20:.0f} |",
                    flush=True,
                )
    print(
        "\n| memory bank | M | bank, ms a frame | as a CUDA graph | with Q-Former, ms a frame | as a CUDA graph |"
    )
    print("|---|---|---|---|---|---|")
    record = recorded if on_card else None
    for checkpoint in checkpoints:
        for bank in _timed(partial(timings.banks, checkpoint, device, (20, 40), record)):
            cells = f"{_step(bank.bank)} | {_step(bank.qformer)}"
            print(f"| {bank.model} | {bank.length} | {cells} |", flush=True)
    print("\n| text | prompts on one memory | new tokens each | tokens/s |\n|---|---|---|---|")
    slots, tokens, prompts = (3, 4, (1, 2)) if is_tiny else (20, 32, (1, 8, 32))
    for checkpoint in checkpoints:
        work = partial(timings.texts, checkpoint, device, slots=slots, tokens=tokens, prompts=prompts)
        for text in _timed(work):
            print(f"| {text.model} | {text.prompts} | {text.tokens} | {text.tokens_a_s:.0f} |", flush=True)
    if on_card:
        _peaks(checkpoints, device, frames=5 if is_tiny else 100, tokens=tokens)


def _peaks(
    checkpoints: Sequence[RandomCheckpoint], device: torch.device, *, frames: int, tokens: int
) -> None:
    print("\n| memory | stage | MiB at its peak | MiB of weights and bank by `malmm.model.footprint` |")
    print("|---|---|---|---|")
    for checkpoint in checkpoints:
        work = partial(timings.peaks, checkpoint, device, frames=frames, tokens=tokens, measure=peak_bytes)
        for row in _timed(work):
            sizes = f"{row.peak_bytes / 2**20:.0f} | {row.said_bytes / 2**20:.0f}"
            print(f"| {row.model} | {row.stage} | {sizes} |", flush=True)


def _step(step: timings.Step | None) -> str:
    """Two cells: the step, and its replay or why there is none."""
    if step is None:
        return " | "
    replay = step.reason if step.graph_ms is None else f"{step.graph_ms:.3f}"
    return f"{step.ms:.3f} | {replay}"


def _timed(work: Callable[[], Iterator[_Row]]) -> Iterator[_Row]:
    """The rows that can be measured, and a line that says why there are no more: a timing is no check."""
    try:
        yield from work()
    except RuntimeError as error:
        print(f"| not measured: {' '.join(str(error).split())[:200]} |", flush=True)
    finally:
        _free()


def _free() -> None:
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
