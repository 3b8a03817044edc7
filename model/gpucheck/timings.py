"""Time the card: encoders (compared with a plain matrix product), banks and Q-Former, and text by batch size."""

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
from malmm.model.footprint import work_of
from malmm.model.gpucheck.checks import random_frames
from malmm.model.gpucheck.random_checkpoint import RandomCheckpoint
from malmm.model.memory.bank import Bank
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.settings import MemorySettings

__all__ = ["BankRow", "EncoderRow", "TextRow", "banks", "encoders", "product_flops", "texts"]


@dataclass(frozen=True)
class EncoderRow:
    """Frames through a vision encoder and projector: ``peak_bytes`` beyond the weights, 0 on a CPU."""

    model: str
    batch: int
    frames_a_s: float
    flops: float
    peak_bytes: int


@dataclass(frozen=True)
class BankRow:
    """One frame's step of a bank that is full, and of the Q-Former with its banks (None for other families)."""

    model: str
    length: int
    bank_ms: float
    qformer_ms: float | None


@dataclass(frozen=True)
class TextRow:
    """Texts of ``tokens`` new tokens each, ``prompts`` on one memory."""

    model: str
    prompts: int
    tokens: int
    tokens_a_s: float


def product_flops(device: torch.device, side: int) -> float:
    """Operations a second of a matrix product of this side, in the half type that models get."""
    dtype = half_precision(device)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: left @ right, device)


def encoders(
    checkpoint: RandomCheckpoint, device: torch.device, batches: tuple[int, ...]
) -> Iterator[EncoderRow]:
    """Time batches of frames that are on the device, for each number of frames at once."""
    encoder: Any = family_of(checkpoint).load_encoder(checkpoint, device=device)
    frame_flop = work_of(checkpoint).frame_flop
    for batch in batches:
        frames = torch.from_numpy(random_frames(checkpoint, batch)).to(device)
        before = peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with torch.inference_mode():
            each_s = _seconds(partial(encoder.vision, frames), device) / batch
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device) - before
        yield EncoderRow(checkpoint.name, batch, 1 / each_s, frame_flop / each_s, peak)


def banks(checkpoint: RandomCheckpoint, device: torch.device, lengths: tuple[int, ...]) -> Iterator[BankRow]:
    """Time steps of full banks, for each length M."""
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
        for _ in range(length):
            bank.append(frame_1NC + torch.randn_like(frame_1NC))
        bank_s = _seconds(partial(bank.append, frame_1NC), device)
        qformer_s = None
        if hasattr(encoder, "qformer"):
            qformer_s = _qformer_seconds(encoder, frame_1NC, length, device)
        yield BankRow(checkpoint.name, length, 1e3 * bank_s, None if qformer_s is None else 1e3 * qformer_s)


def texts(
    checkpoint: RandomCheckpoint, device: torch.device, *, slots: int, tokens: int, prompts: tuple[int, ...]
) -> Iterator[TextRow]:
    """Time texts of a fixed length, for each number of prompts at once."""
    language: Any = family_of(checkpoint).load_language(checkpoint, device=device)
    # Without an end token all texts have their full length.
    language.text_tokens = TextTokens((), language.text_tokens.padding, language.text_tokens.decoder_start)
    memory = torch.randn(slots, *token_shape(checkpoint), device=device)
    held = Slots(memory, tuple(float(place) for place in range(slots)), float(slots))
    for count in prompts:
        asked = [Asked(f"What happens, in {place} words?", slots=held) for place in range(count)]
        if hasattr(language, "projection"):
            output = torch.randn(32, language.projection.in_features)
            asked = [Asked(question.prompt, query_output=output) for question in asked]
        taken_s = _seconds(partial(language.generate_texts, asked, Decoding(tokens)), device, least=1)
        yield TextRow(checkpoint.name, count, tokens, count * tokens / taken_s)


def _qformer_seconds(encoder: Any, frame_1NC: torch.Tensor, length: int, device: torch.device) -> float:
    ids, mask = encoder.prompt_tokens([["What happens in the video?"]])
    state = encoder.qformer.start(
        ids, mask, steps=10**6, tokens_per_frame=frame_1NC.shape[1], settings=MemorySettings(length, "token")
    )
    together = 16
    frames_1TNC = torch.randn(1, together, *frame_1NC.shape[1:], device=device)
    with torch.inference_mode():
        for _ in range(-(-length // together)):
            encoder.qformer.step(state, frames_1TNC, want_output=False)
        return (
            _seconds(lambda: encoder.qformer.step(state, frames_1TNC, want_output=False), device) / together
        )


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
