"""What a model family is: four questions that it answers, and the objects that pass between the answers.

1. How must frames look? ``frame_format``.
2. How do frames become tokens and memory? ``load_encoder``: the vision part alone.
3. How do memory and a prompt become the language model's input? 4. How does text come from that? ``load_language``:
   the language model alone, given one ``Asked`` a text.

Banks, merging, provenance, storage, replay, search and jobs know no family. All state is explicit: an encoder or a
language model keeps nothing between calls. Families are listed in ``malmm.model.families.registry``.

Shape suffixes: T frames, S slots, N visual tokens, L layers, C channels, K prompts, Q queries, D channels of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
    """The type for vision encoders and language models: half on CUDA, single elsewhere.

    bfloat16 where the card computes with it. Cards before Ampere (T4, V100) emulate it slowly and get float16.
    """
    if device.type != "cuda":
        return torch.float32
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


@dataclass(frozen=True)
class Encoded:
    """One segment, encoded: its memory and, from Q-Former families, ``query_output`` [K, Q, D], one a prompt."""

    memory: Memory
    query_output: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Slots:
    """Memory as a language model reads it: ``tokens`` [S, N, C] or [S, N, L, C] in time order.

    ``times_s`` is the time in the video of each slot, and ``end_s`` where the part of the video that it covers ends.
    """

    tokens: Tensor
    times_s: tuple[float, ...]
    end_s: float

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} slots and {len(self.times_s)} times")


@dataclass(frozen=True, eq=False)
class Asked:
    """One text to make: a prompt, and what the family's language part answers from.

    That is ``query_output`` [Q, D] for Q-Former families and ``slots`` for the others. Texts that are asked of the
    same ``Slots`` object share its prefill. ``system`` is the system text, for families with a chat template.
    """

    prompt: str
    query_output: Tensor | None = None
    slots: Slots | None = None
    system: str | None = None


@dataclass(frozen=True)
class LabelScores:
    """A classification: the probability of each label, in the order they were given."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def best(self) -> tuple[str, float]:
        """The likeliest label and its probability."""
        place = max(range(len(self.labels)), key=lambda index: self.probabilities[index])
        return self.labels[place], self.probabilities[place]


class Counts(NamedTuple):
    """Numbers that the parts of a model hold. The projector is what maps what is seen into the language model."""

    vision: int
    projector: int
    language: int


class VideoEncoder(Protocol):
    """Frames in, memory out."""

    def encode(
        self, frames: Sequence[np.ndarray], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> list[Encoded]:
        """Encode segments together: ``frames[s]`` is uint8 [T_s, H, W, 3], ``prompts[s]`` its K prompts."""

    def replay(
        self, memories: Sequence[Memory], prompts: Sequence[Sequence[str]], settings: MemorySettings
    ) -> Sequence[Tensor | None]:
        """What a prompt needs of stored memory: query outputs [K, Q, D], None where slots are enough."""

    def merge(
        self,
        memories: Iterable[Memory],
        settings: MemorySettings,
        *,
        frame_counts: Sequence[int] | None = None,
    ) -> Memory:
        """One memory of the segments of a video, in time order."""


class LanguagePart(Protocol):
    """Memory and prompts in, text out."""

    def generate_texts(
        self,
        asked: Sequence[Asked],
        decoding: Decoding,
        *,
        on_words: Callable[[str], None] | None = None,
    ) -> list[str]:
        """One text for each. ``on_words`` gets the words of a single text as they come."""

    def score_labels(self, asked: Sequence[Asked], labels: Sequence[str]) -> list[LabelScores]:
        """Score the labels as continuations of each prompt. Raises ValueError without labels or with equal ones."""


class Family(Protocol):
    """A model family."""

    #: True where each frame's time is written before its slot, and memory alone answers: no query bank.
    reads_slots: bool
    #: Frames that become one step of the memory bank.
    frames_per_step: int

    def verify(self, checkpoint: Checkpoint) -> None:
        """Compare a checkpoint's tensors with the model's, from headers alone. Raises CheckpointError."""

    def parameters(self, checkpoint: Checkpoint) -> Counts:
        """Numbers of each part, by the configuration alone. Raises CheckpointError."""

    def frame_flop(self, checkpoint: Checkpoint) -> int:
        """Operations a frame through vision encoder and projector, by the configuration alone.

        Two for each multiplication and addition of a matrix product. Raises CheckpointError.
        """

    def load_encoder(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device | str = "cpu",
        with_vision: bool = True,
        compile_vision: bool = False,
    ) -> VideoEncoder:
        """The part that sees frames, without the language model. ``with_vision=False`` for replay alone."""

    def load_language(self, checkpoint: Checkpoint, *, device: torch.device | str = "cpu") -> LanguagePart:
        """The language model, without the part that sees frames. Raises CheckpointError."""
