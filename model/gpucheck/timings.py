"""Time the card: encoders (compared with a plain matrix product), banks and Q-Former, and text by batch size.

And measure its memory at the peak. What only a card can do is handed in (``malmm.model.gpucheck.cuda``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from malmm.model.decoding import Decoding, TextTokens
from malmm.model.families.family import Asked, Slots, half_precision
from malmm.model.families.registry import family_of, token_shape
from malmm.model.footprint import footprints_of, work_of
from malmm.model.gpucheck.checks import random_frames
from malmm.model.gpucheck.random_checkpoint import RandomCheckpoint
from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.settings import MemorySettings

__all__ = [
    "BankRow",
    "EncoderRow",
    "MemoryRow",
    "Step",
    "TextRow",
    "banks",
    "encoders",
    "peaks",
    "product_flops",
    "texts",
]

_PROMPT = "What happens in the video?"
_REASON_CHARS = 80
Record = Callable[[Callable[[], object], torch.device], Callable[[], object]]
"""Records work as a CUDA graph and returns what replays it. Raises RuntimeError if it cannot be recorded."""
Measure = Callable[[Callable[[], Any], Callable[[Any], object], torch.device], int]
"""Most bytes allocated while what the first returns is given to the second."""


@dataclass(frozen=True)
class EncoderRow:
    """Frames through a vision encoder and projector, as compiled code or not.

    ``peak_bytes`` are beyond the weights, and 0 on a CPU.
    """

    model: str
    batch: int
    compiled: bool
    frames_a_s: float
    flops: float
    peak_bytes: int


@dataclass(frozen=True)
class Step:
    """One frame's step, and its replay as a CUDA graph: None without one, and ``reason`` if it was tried."""

    ms: float
    graph_ms: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class BankRow:
    """One frame's step of a bank that is full, and of the Q-Former with its banks (None for other families)."""

    model: str
    length: int
    bank: Step
    qformer: Step | None


@dataclass(frozen=True)
class TextRow:
    """Texts of ``tokens`` new tokens each, ``prompts`` on one memory."""

    model: str
    prompts: int
    tokens: int
    tokens_a_s: float


@dataclass(frozen=True)
class MemoryRow:
    """A stage's memory at its peak, activations included, and what ``malmm.model.footprint`` says without them."""

    model: str
    stage: str
    peak_bytes: int
    said_bytes: int


def product_flops(device: torch.device, side: int) -> float:
    """Operations a second of a matrix product of this side, in the half type that models get."""
    dtype = half_precision(device)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: left @ right, device)


def encoders(
    checkpoint: RandomCheckpoint, device: torch.device, batches: tuple[int, ...], *, compiled: bool = False
) -> Iterator[EncoderRow]:
    """Time batches of frames that are on the device, for each number of frames at once.

    Raises CheckpointError for a family that is not ``compiled``, and CompileError if it cannot be here.
    """
    encoder: Any = family_of(checkpoint).load_encoder(checkpoint, device=device, compile_vision=compiled)
    see = encoder.compiled if compiled else encoder.vision
    frame_flop = work_of(checkpoint).frame_flop
    for batch in batches:
        frames = torch.from_numpy(random_frames(checkpoint, batch)).to(device)
        before = peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with torch.inference_mode():
            each_s = _seconds(partial(see, frames), device) / batch
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) - before
        yield EncoderRow(checkpoint.name, batch, compiled, 1 / each_s, frame_flop / each_s, peak)


def banks(
    checkpoint: RandomCheckpoint, device: torch.device, lengths: tuple[int, ...], record: Record | None = None
) -> Iterator[BankRow]:
    """Time steps of full banks, for each length M, and their replays if ``record`` is given."""
    tokens, *layers, channels = token_shape(checkpoint)
    width = channels * (layers[0] if layers else 1)
    encoder: Any = family_of(checkpoint).load_encoder(checkpoint, device=device, with_vision=False)
    for length in lengths:
        frame_1NC = torch.randn(1, tokens, width, device=device)
        bank = Bank(
            rows=1,
            length=length,
            steps=10**6,
            positions=tokens,
            channels=width,
            policy=merge_policy("token"),
            device=device,
            dtype=torch.float32,
            compared=channels,
        )
        # One more than its length, from which on each step merges.
        for _ in range(length + 1):
            bank.append(frame_1NC + torch.randn_like(frame_1NC))
        alone = _step(partial(bank.append, frame_1NC), device, record)
        with_qformer = None
        if hasattr(encoder, "qformer"):
            with_qformer = _qformer_step(encoder, frame_1NC, length, device, record)
        yield BankRow(checkpoint.name, length, alone, with_qformer)


def texts(
    checkpoint: RandomCheckpoint, device: torch.device, *, slots: int, tokens: int, prompts: tuple[int, ...]
) -> Iterator[TextRow]:
    """Time texts of a fixed length, for each number of prompts at once."""
    language: Any = family_of(checkpoint).load_language(checkpoint, device=device)
    # Without an end token all texts have their full length.
    language.text_tokens = TextTokens((), language.text_tokens.padding, language.text_tokens.decoder_start)
    for count in prompts:
        asked = _asked(checkpoint, language, device, slots, count)
        taken_s = _seconds(partial(language.generate_texts, asked, Decoding(tokens)), device, least=1)
        yield TextRow(checkpoint.name, count, tokens, count * tokens / taken_s)


def peaks(
    checkpoint: RandomCheckpoint, device: torch.device, *, frames: int, tokens: int, measure: Measure
) -> Iterator[MemoryRow]:
    """Memory of each stage while it does a segment of so many frames, and then a text about it."""
    family, settings = family_of(checkpoint), MemorySettings()
    half_bytes = torch.empty((), dtype=half_precision(device)).element_size()
    said = {"encode": 0, "generate": 0}
    for row in footprints_of(checkpoint, half_bytes=half_bytes, settings=settings):
        said[row.stage] += row.size_bytes

    def encode(encoder: Any) -> None:
        encoder.encode([random_frames(checkpoint, frames)], [[_PROMPT]], settings)

    def generate(language: Any) -> None:
        asked = _asked(checkpoint, language, device, settings.length, 1)
        language.generate_texts(asked, Decoding(tokens))

    for stage, load, work in (
        ("encode", family.load_encoder, encode),
        ("generate", family.load_language, generate),
    ):
        peak = measure(partial(load, checkpoint, device=device), work, device)
        yield MemoryRow(checkpoint.name, stage, peak, said[stage])


def _asked(
    checkpoint: RandomCheckpoint, language: Any, device: torch.device, slots: int, count: int
) -> list[Asked]:
    """So many questions on one memory, as the family's language part takes them."""
    prompts = [f"What happens, in {place} words?" for place in range(count)]
    if hasattr(language, "projection"):
        output = torch.randn(32, language.projection.in_features)
        return [Asked(prompt, query_output=output) for prompt in prompts]
    memory = torch.randn(slots, *token_shape(checkpoint), device=device)
    held = Slots(memory, tuple(float(place) for place in range(slots)), float(slots))
    return [Asked(prompt, slots=held) for prompt in prompts]


def _qformer_step(
    encoder: Any, frame_1NC: torch.Tensor, length: int, device: torch.device, record: Record | None
) -> Step:
    ids, mask = encoder.prompt_tokens([[_PROMPT]])
    state = encoder.qformer.start(
        ids, mask, steps=10**6, tokens_per_frame=frame_1NC.shape[1], settings=MemorySettings(length, "token")
    )
    together = 16
    frames_1TNC = torch.randn(1, together, *frame_1NC.shape[1:], device=device)
    step = partial(encoder.qformer.step, state, frames_1TNC, want_output=False)
    with torch.inference_mode():
        for _ in range(-(-(length + 1) // together)):
            step()
        return _step(step, device, record, frames=together)


def _step(
    work: Callable[[], object], device: torch.device, record: Record | None, *, frames: int = 1
) -> Step:
    """Milliseconds a frame, of work on so many."""
    each_ms = 1e3 * _seconds(work, device) / frames
    if record is None:
        return Step(each_ms)
    try:
        replay = record(work, device)
    except RuntimeError as error:
        return Step(each_ms, reason=" ".join(str(error).split())[:_REASON_CHARS])
    return Step(each_ms, 1e3 * _seconds(replay, device) / frames)


def _seconds(
    work: Callable[[], object], device: torch.device, *, least: int = 3, at_least_s: float = 0.5
) -> float:
    """Seconds of one call: after a call to warm up, the mean of as many as take half a second, ``least`` or more."""
    work()
    _wait(device)
    calls, began = 0, time.perf_counter()
    while calls < least or time.perf_counter() - began < at_least_s:
        work()
        _wait(device)
        calls += 1
    return (time.perf_counter() - began) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
