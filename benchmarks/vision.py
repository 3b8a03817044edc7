"""The vision encoder: frames batched against one frame a call.

    python benchmarks/vision.py [--batches 1 4 8 32] [--paper-frames 8] [--frames 256] [--compile demo paper]

At the demo model's size on many frames, and at paper size (ViT-g/14: 39 layers of 1408 at 224, random weights, float32)
on a few: 521 GFLOP a frame. The baseline is one call a frame. All take turns in one process; prints medians.
``GFLOP/s`` counts a frame's matrix products, and is compared with one product of 2048 x 2048 in the same process, the
upper limit. ``--compile`` chooses the sizes for which compiled code is measured too, in batches of its fixed sizes; the
ratio of such a row is to the best of the others.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import InstructBlipVisionConfig, InstructBlipVisionModel

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.instructblip.compiled_vision import BATCHES, CompiledVision
from malmm.model.families.instructblip.vision import VisionEncoder


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 32])
    parser.add_argument("--frames", type=int, default=256, help="at the demo model's size (%(default)s)")
    parser.add_argument("--paper-frames", type=int, default=8, help="at paper size; 0 for none (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--compile", nargs="*", choices=("demo", "paper"), default=["demo"], help="(%(default)s)"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{torch.get_num_threads()} threads, {peak():.0f} GFLOP/s at most; medians of {options.rounds} rounds\n"
    )
    print("| size | frames a call | frames/s | of one a call | GFLOP/s |\n|---|---|---|---|---|", flush=True)
    demo = VisionEncoder.load(open_models("demo", NO_RETRIEVAL).instructblip, dtype=torch.float32).eval()
    measure("demo", demo, options.frames, options.batches, options.rounds, compiled="demo" in options.compile)
    if options.paper_frames:
        paper = VisionEncoder(InstructBlipVisionModel(InstructBlipVisionConfig()), (0.5,) * 3, (0.5,) * 3)
        batches = [batch for batch in options.batches if batch <= options.paper_frames]
        wanted = "paper" in options.compile
        measure("paper", paper.eval(), options.paper_frames, batches, options.rounds, compiled=wanted)


@torch.inference_mode()
def measure(
    name: str, vision: VisionEncoder, count: int, batches: list[int], rounds: int, *, compiled: bool
) -> None:
    """A row for each number of frames a call, and one for each fixed size of compiled code."""
    side = vision.image_size
    frames = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    ways: dict[tuple[str, int], Callable[[torch.Tensor], torch.Tensor]] = {
        (name, batch): vision for batch in batches
    }
    vision(frames[:1])
    if compiled:
        made: list[CompiledVision] = []
        sizes = [size for size in BATCHES if size <= count]
        took_s = timed(lambda: made.append(CompiledVision(vision, sizes)))
        different = (made[0](frames) - vision(frames)).abs().max()
        print(
            f"| {name}: compiled in {took_s:.0f} s, tokens differ by up to {different:.1e} | | | | |",
            flush=True,
        )
        ways |= {(f"{name}, compiled", size): made[0] for size in sizes}
    took: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for (way, batch), see in ways.items():
            took[way, batch].append(timed(lambda: [see(part) for part in frames.split(batch)]))  # noqa: B023
    medians = {way: statistics.median(times) for way, times in took.items()}
    plain = {way: s for way, s in medians.items() if way[0] == name}
    for (way, batch), s in medians.items():
        base = plain[name, batches[0]] if way == name else min(plain.values())
        rate = count * gflop(vision) / s
        of = "" if way == name else " (of the best above)"
        print(f"| {way} | {batch} | {count / s:.1f} | {base / s:.2f}{of} | {rate:.0f} |", flush=True)


def gflop(vision: VisionEncoder) -> float:
    """Of a frame's matrix products: those with weights, and those of attention."""
    config = vision.model.config
    tokens, width, layers = vision.tokens_per_frame, config.hidden_size, config.num_hidden_layers
    weights = 4 * width**2 + 2 * width * config.intermediate_size
    return layers * (2 * tokens * weights + 4 * tokens**2 * width) / 1e9


def peak() -> float:
    """GFLOP/s of a large product."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(timed(lambda: a @ a) for _ in range(5)) / 1e9


def timed(what: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
