"""The interface of a model family, and the objects that pass between its parts.

A family has two parts, which are loaded separately:

* ``load_encoder``: the vision part, which turns frames into tokens and memory;
* ``load_language``: the language model, which turns memory and prompts (one ``Asked`` a text) into texts.

Banks, merging, provenance, storage, replay, search and jobs do not depend on the family. All state is explicit: an
encoder or a language model keeps nothing between calls. ``malmm.model.families.registry`` lists the families, and says
how frames must look.

Shape suffixes: T frames, S slots, N visual tokens, L layers, C channels, K prompts, Q queries, D channels of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.decoding import Decoding
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import Memory

__all__ = [
    "Asked",
    "Counts",
    "Encoded",
    "Family",
    "LabelScores",
    "LanguagePart",
    "Slots",
    "VideoEncoder",
    "half_precision",
]


def half_precision(device: torch.device) -> torch.dtype:
    """The dtype for vision encoders and language models: half precision on CUDA, single elsewhere.

    bfloat16 if the card supports it. Cards before Ampere (T4, V100) emulate it slowly and get float16.
    """
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


@dataclass(frozen=True)
class Encoded:
    """An encoded segment: its memory and, from Q-Former families, ``query_output`` [K, Q, D], one for each prompt."""

    memory: Memory
    query_output: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Slots:
    """Memory as input of a language model: ``tokens`` [S, N, C] or [S, N, L, C] in time order.

    ``times_s`` are the times of the slots in the video, and ``end_s`` is the end of the span that they cover.
    """

    tokens: Tensor
    times_s: tuple[float, ...]
    end_s: float

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} slots and {len(self.times_s)} times")

    @classmethod
    def of(cls, memory: Memory, times_s: Sequence[float], end_s: float, frames_per_step: int = 1) -> Slots:
        """A clip's finished memory, rounded as it would be stored; ``times_s`` are those of its frames."""
        spans = memory.spans(times_s, times_s[0], end_s)
        times = tuple(span.centre_s if frames_per_step > 1 else span.timestamp_s for span in spans)
        return cls(memory.tokens.to(torch.float16).cpu(), times, end_s)


@dataclass(frozen=True, eq=False)
class Asked:
    """A request for one text: a prompt, and the input of the language part.

    The input is ``query_output`` [Q, D] for Q-Former families and ``slots`` for the others. Requests with the same
    ``Slots`` object share its prefill. ``system`` is the system prompt, for families with a chat template.
    """

    prompt: str
    query_output: Tensor | None = None
    slots: Slots | None = None
    system: str | None = None


@dataclass(frozen=True)
class LabelScores:
    """A classification: the probability of each label, in the given order."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def best(self) -> tuple[str, float]:
        """The most likely label and its probability."""
        place = max(range(len(self.labels)), key=lambda index: self.probabilities[index])
        return self.labels[place], self.probabilities[place]


class Counts(NamedTuple):
    """Numbers of parameters of a model's parts. The projector maps visual features to the language model's inputs."""

    vision: int
    projector: int
    language: int


class VideoEncoder(Protocol):
    """The vision part: frames in, memory out."""

    def encode(
        self, frames: Sequence[np.ndarray], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> list[Encoded]:
        """Encode segments together: ``frames[s]`` is uint8 [T_s, H, W, 3], ``prompts[s]`` its K prompts."""

    def replay(
        self, memories: Sequence[Memory], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> Sequence[Tensor | None]:
        """Query outputs [K, Q, D] of prompts on stored memory; None for families that read slots."""

    def merge(
        self,
        memories: Iterable[Memory],
        settings: MemorySettings,
        *,
        frame_counts: Sequence[int] | None = None,
    ) -> Memory:
        """Merge the memories of a video's segments, in time order, into one."""


class LanguagePart(Protocol):
    """The language part: memory and prompts in, text out. ``model`` is transformers' language model."""

    model: Any

    def prompt_tokens(self, asked: Asked) -> int:
        """Tokens of a request, with those of its memory. Raises ValueError for one that cannot be answered."""

    def generate_texts(
        self,
        asked: Sequence[Asked],
        decoding: Decoding,
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Generate a text for each request. Calls ``on_words`` with the words of a single text as they come."""

    def candidate_texts(self, asked: Sequence[Asked], decoding: Decoding) -> list[list[str]]:
        """``decoding.returned`` texts for each request, the best first."""

    def score_labels(self, asked: Sequence[Asked], labels: Sequence[str]) -> list[LabelScores]:
        """Score labels as continuations of each prompt. Raises ValueError without labels or with equal ones."""


class Family(Protocol):
    """A model family."""

    #: True for families whose language model reads slots; false for Q-Former families, which have query banks.
    reads_slots: bool
    #: Number of frames in one step of the memory bank.
    frames_per_step: int

    def verify(self, checkpoint: Checkpoint) -> None:
        """Compare a checkpoint's tensors with the model's, reading only headers. Raises CheckpointError."""

    def parameters(self, checkpoint: Checkpoint) -> Counts:
        """Numbers of parameters of each part, from the configuration. Raises CheckpointError."""

    def frame_flop(self, checkpoint: Checkpoint) -> int:
        """Floating point operations of a frame in vision encoder and projector, from the configuration.

        Counts two for each multiply-add of a matrix product. Raises CheckpointError.
        """

    def load_encoder(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        with_vision: bool = True,
        compile_vision: bool = False,
    ) -> VideoEncoder:
        """Load the vision part, without the language model. ``with_vision=False`` loads what replay needs."""

    def load_language(self, checkpoint: Checkpoint, *, device: torch.device | str = "cpu") -> LanguagePart:
        """Load the language model, without the vision part. Raises CheckpointError."""
