"""Texts of a vLLM server against those of the workers' own engine: how many are equal, and how long both take.

    python -m malmm.model.generation.language_checkpoint demo demo-language      # prints how to serve it
    python benchmarks/vllm.py demo http://127.0.0.1:8000 [--clips 16] [--tokens 40] [--rounds 3] [--threads 2]

The model watches drawn clips, at a frame a second, and is asked the same questions about each. The first round warms up
and is not counted; seconds are medians of the others. A server caches prompts that it has read, so each round has other
clips. Both engines should have the same number of cores, one after the other: the server's are its own affair.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from malmm.model.batch_limit import Mishap
from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.demo.drawing import draw_scene
from malmm.model.demo.world import plan_scenes
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of, image_size
from malmm.model.generation.engine import Engine, Request
from malmm.model.generation.language_checkpoint import served_config
from malmm.model.generation.transformers_engine import TransformersEngine
from malmm.model.generation.vllm_engine import VllmEngine
from malmm.model.generation.vllm_server import VllmServer, served_name
from malmm.model.memory.settings import MemorySettings

QUESTIONS = (
    "Describe the video.",
    "What appears first?",
    "What appears last?",
    "How many objects appear?",
)
CLIP_S = 24
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a checkpoint directory, a hub id, or a demo model")
    parser.add_argument("address", help="the server, such as http://127.0.0.1:8000")
    parser.add_argument("--clips", type=int, default=16, help="a round (%(default)s)")
    parser.add_argument("--bank-length", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=40, help="the longest text (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = open_models(options.model, NO_RETRIEVAL).checkpoint
    family = family_of(checkpoint)
    encoder = family.load_encoder(checkpoint)
    language: Any = family.load_language(checkpoint)
    server = VllmServer(options.address, served_name(checkpoint))
    server.check(int(served_config(checkpoint).hidden_size))
    engines: dict[str, Engine] = {
        "transformers": TransformersEngine(language, CPU),
        "vLLM": VllmEngine(language, CPU, server),
    }
    settings = MemorySettings(options.bank_length, "token")
    took: dict[str, list[float]] = {name: [] for name in engines}
    tokens: dict[str, int] = dict.fromkeys(engines, 0)
    compared = differ = 0
    for number in range(options.rounds + 1):
        asked = [
            one
            for clip in range(options.clips)
            for one in questions(checkpoint, encoder, settings, (number, clip))
        ]
        requests = [Request(one, Decoding(options.tokens)) for one in asked]
        texts: dict[str, list[str]] = {}
        for name, engine in engines.items():
            began = time.perf_counter()
            made = engine.texts(requests)
            s = time.perf_counter() - began
            texts[name] = [each.message if isinstance(each, Mishap) else each[0] for each in made]
            if number:
                took[name].append(s)
                tokens[name] += sum(len(language.tokenizer(text)["input_ids"]) for text in texts[name])
            print(f"round {number}, {name}: {s:.2f} s", file=sys.stderr, flush=True)
        pairs = list(zip(*texts.values(), strict=True))
        compared += len(pairs)
        differ += sum(ours != theirs for ours, theirs in pairs)
        for ours, theirs in [pair for pair in pairs if pair[0] != pair[1]][:3]:
            print(f"  {ours!r} is {theirs!r} there", file=sys.stderr)
    positions = [language.prompt_tokens(one) for one in asked]
    print(
        f"{len(requests)} texts a round of at most {options.tokens} tokens, prompts of {min(positions)} to "
        f"{max(positions)} positions, {options.threads} threads here; medians of {options.rounds} rounds\n\n"
        "| engine | s | tokens/s |\n|---|---|---|"
    )
    for name, times in took.items():
        print(f"| {name} | {statistics.median(times):.2f} | {tokens[name] / sum(times):.0f} |")
    print(f"\n{differ} of {compared} texts differ")


def questions(
    checkpoint: Checkpoint, encoder: Any, settings: MemorySettings, seed: tuple[int, ...]
) -> list[Asked]:
    """Each question about one drawn clip."""
    side = image_size(checkpoint)
    frames = np.stack([_resized(frame, side) for frame in drawn(seed)])
    [encoded] = encoder.encode([frames], [QUESTIONS], settings)
    if encoded.query_output is not None:
        return [
            Asked(prompt, query_output=output)
            for prompt, output in zip(QUESTIONS, encoded.query_output, strict=True)
        ]
    slots = Slots.of(encoded.memory, [float(at) for at in range(len(frames))], float(len(frames)))
    return [Asked(prompt, slots=slots) for prompt in QUESTIONS]


def drawn(seed: tuple[int, ...]) -> list[np.ndarray]:
    """Frames of a drawn clip, one a second."""
    scenes, noise = plan_scenes(CLIP_S, seed), np.random.default_rng(seed)
    return [
        draw_scene(next(scene for scene in reversed(scenes) if scene.start_s <= at), at, noise)
        for at in range(CLIP_S)
    ]


def _resized(frame: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))


if __name__ == "__main__":
    main()
