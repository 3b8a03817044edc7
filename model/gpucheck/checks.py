"""Checks that pass or fail on any card: parity, precision, memory, and recovery from errors."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from malmm.model.batch_limit import BatchLimit
from malmm.model.families.family import Asked, Encoded, LanguagePart, Slots, VideoEncoder, half_precision
from malmm.model.families.registry import family_of, image_size
from malmm.model.footprint import footprints_of
from malmm.model.gpucheck.random_checkpoint import RandomCheckpoint
from malmm.model.memory.settings import MemorySettings

__all__ = ["Outcome", "checks", "random_frames", "weight_bytes"]

PARITY, LEAST_COSINE, FOOTPRINT = 1e-10, 0.99, 0.05
_PROMPTS = ("What happens?", "Which colours are there, and in which order do they come?")
_LABELS = ("yes", "no", "it depends")
_STICKY = """
import os
import torch
from malmm.model.batch_limit import BatchLimit

device = torch.device({device!r})
limit = BatchLimit(device)
limit.results([9], lambda places: [torch.zeros(4, device=device)[torch.tensor(places, device=device)].item()])
# As a worker ends: without tidying up on a device that does not answer.
os._exit(0 if limit.device_lost else 1)
"""


@dataclass(frozen=True)
class Outcome:
    """One check: what was compared, whether it holds (None if it could not be tried), and the figure or the reason."""

    check: str
    holds: bool | None
    found: str


def checks(
    small: Sequence[RandomCheckpoint], real: Sequence[RandomCheckpoint], device: torch.device
) -> Iterator[Outcome]:
    """All of them. Parity is computed on the ``small`` checkpoints, precision and memory on the ``real`` ones."""
    for checkpoint in small:
        yield _tried(f"{checkpoint.name}: float64 as on the CPU", partial(_parity, checkpoint, device))
    for checkpoint in real:
        yield _tried(f"{checkpoint.name}: half precision", partial(_precision, checkpoint, device))
        yield _tried(f"{checkpoint.name}: weights' bytes", partial(_footprint, checkpoint, device))
    yield _tried("a batch too large for the memory is halved", partial(_out_of_memory, device))
    yield _tried("a fault that sticks is noticed", partial(_sticky, device))


def random_frames(checkpoint: RandomCheckpoint, count: int, seed: int = 0) -> np.ndarray:
    """uint8 [T, side, side, 3]: scenes of three frames each, with noise."""
    side, generator = image_size(checkpoint), np.random.default_rng(seed)
    scenes = generator.integers(0, 256, (-(-count // 3), side, side, 3), dtype=np.int16)
    frames = np.repeat(scenes, 3, axis=0)[:count]
    noise = generator.integers(-9, 10, frames.shape, dtype=np.int16)
    return (frames + noise).clip(0, 255).astype(np.uint8)


def weight_bytes(part: VideoEncoder | LanguagePart) -> int:
    """Bytes of a part's parameters, tied ones once."""
    held = {id(value): value for value in cast(nn.Module, part).parameters()}
    return sum(value.numel() * value.element_size() for value in held.values())


def _tried(check: str, work: Callable[[], tuple[bool | None, str]]) -> Outcome:
    try:
        return Outcome(check, *work())
    except Exception as error:  # noqa: BLE001 - a card or driver may raise anything; the other checks continue
        return Outcome(check, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _parity(checkpoint: RandomCheckpoint, device: torch.device) -> tuple[bool, str]:
    """Memory and label scores in double precision: three segments together on the device, and each alone on the CPU."""
    family = family_of(checkpoint)
    encoder, language = (
        cast(nn.Module, part).double()
        for part in (family.load_encoder(checkpoint), family.load_language(checkpoint))
    )
    frames = [random_frames(checkpoint, count, seed=count) for count in (9, 5, 1)]
    results: list[tuple[list[Encoded], Tensor]] = []
    for place, groups in ((device, [frames]), (torch.device("cpu"), [[clip] for clip in frames])):
        sees = cast(VideoEncoder, copy.deepcopy(encoder).to(place))
        says = cast(LanguagePart, copy.deepcopy(language).to(place))
        encoded: list[Encoded] = []
        probabilities = []
        for group in groups:
            made = sees.encode(group, [_PROMPTS] * len(group), MemorySettings(3, "token"))
            scores = says.score_labels([asked for one in made for asked in _asked(one)], _LABELS)
            encoded += made
            probabilities += [score.probabilities for score in scores]
        results.append((encoded, torch.tensor(probabilities, dtype=torch.float64)))
    (ours, our_scores), (theirs, their_scores) = results
    error = max(
        _difference(our_scores, their_scores),
        *(_difference(a.memory.tokens, b.memory.tokens) for a, b in zip(ours, theirs, strict=True)),
        *(
            _difference(a.query_output, b.query_output)
            for a, b in zip(ours, theirs, strict=True)
            if a.query_output is not None and b.query_output is not None
        ),
    )
    return error <= PARITY, f"largest error {error:.1e}, at most {PARITY:.0e}"


def _asked(encoded: Encoded) -> list[Asked]:
    if encoded.query_output is not None:
        pairs = zip(_PROMPTS, encoded.query_output, strict=True)
        return [Asked(prompt, query_output=output) for prompt, output in pairs]
    tokens = encoded.memory.tokens
    slots = Slots(tokens, tuple(float(place) for place in range(len(tokens))), float(len(tokens)))
    return [Asked(prompt, slots=slots) for prompt in _PROMPTS]


def _difference(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    error = float((ours.cpu() - theirs.cpu()).abs().max())
    return float("inf") if error != error else error


def _precision(checkpoint: RandomCheckpoint, device: torch.device) -> tuple[bool, str]:
    """Tokens of the same weights in the half type that the card gets and in single precision, by their cosine."""
    half = half_precision(device)
    if half == torch.float32:
        half = torch.bfloat16
    encoder: Any = family_of(checkpoint).load_encoder(checkpoint, device=device)
    frames = torch.from_numpy(random_frames(checkpoint, 2)).to(device)
    with torch.inference_mode():
        single = encoder.vision.float()(frames).double()
        rounded = encoder.vision.to(half)(frames).double()
    least = float(nn.functional.cosine_similarity(single, rounded, dim=-1).min())
    named = str(half).removeprefix("torch.")
    return least >= LEAST_COSINE, f"least cosine of {named} to float32 {least:.5f}, at least {LEAST_COSINE}"


def _footprint(checkpoint: RandomCheckpoint, device: torch.device) -> tuple[bool, str]:
    """Bytes of what is loaded for each stage against what ``malmm.model.footprint`` says."""
    family = family_of(checkpoint)
    half_bytes = torch.empty((), dtype=half_precision(device)).element_size()
    rows = footprints_of(checkpoint, half_bytes=half_bytes)
    worst, said = 0.0, []
    for stage, load in (("encode", family.load_encoder), ("generate", family.load_language)):
        expected = sum(row.size_bytes for row in rows if row.stage == stage and row.parameters)
        found = weight_bytes(load(checkpoint, device=device))
        worst = max(worst, abs(found / expected - 1))
        said.append(f"{stage} {found / 2**20:.0f} MiB of {expected / 2**20:.0f}")
    return worst <= FOOTPRINT, ", ".join(said)


def _out_of_memory(device: torch.device) -> tuple[bool | None, str]:
    """Four items of which two fit: the third allocation fails, and a smaller batch works afterwards."""
    if device.type != "cuda":
        return None, "only on a GPU"
    free, _ = torch.cuda.mem_get_info(device)
    each = int(free * 0.4)

    def work(items: Sequence[int]) -> list[int]:
        held = [torch.empty(each, dtype=torch.uint8, device=device) for _ in items]
        return [len(held)] * len(items)

    limit = BatchLimit(device)
    found = limit.results([0, 1, 2, 3], work)
    return found == [2, 2, 2, 2] and limit.most == 2, f"batches of {found[0]} after one of 4"


def _sticky(device: torch.device) -> tuple[bool | None, str]:
    """An index out of range fails an assertion on the card; after that, the process cannot compute on it any more."""
    if device.type != "cuda":
        return None, "only on a GPU"
    program = _STICKY.format(device=str(device))
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return ended.returncode == 0, f"the process that met it ended with {ended.returncode}"
