"""Settings of a fine-tuning."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from malmm.model.training.choices import LANGUAGE, METRICS
from malmm.pipeline.schema.config import MERGE_POLICIES
from malmm.pipeline.schema.errors import ConfigError

# The first two are those of malmm.model.training.choices.
__all__ = ["LANGUAGE", "METRICS", "PRECISIONS", "FinetuneConfig"]

#: ``auto`` is half precision on CUDA (bfloat16 where the card has it) and single precision elsewhere.
PRECISIONS = ("auto", "float32", "bfloat16", "float64")
# Names that decide a training's losses: another value is another training.
_DECIDING = (
    *("frames", "fps", "bank_length", "merge_policy", "language", "rank", "epochs", "batch", "every", "patience"),
    *("metric", "warm", "rate", "decay", "crops", "precision", "seed"),
)  # fmt: skip


@dataclass(frozen=True)
class FinetuneConfig:
    """A fine-tuning. Raises ConfigError for values that cannot be.

    ``data`` is a table, and relative names of videos in it are looked up below ``videos``, by default the table's
    folder. ``checkpoints`` is a folder or URI for snapshots, by default beside ``output``. A clip is watched at ``fps``
    frames a second, ``frames`` of them at most. ``batch`` examples make a step, over all ``workers``; 0 workers train
    in this process, without Ray. ``every`` steps make a measurement, by default those of an epoch. ``language`` is None
    for what is usual: frozen for InstructBLIP, adapters for plain families.
    """

    data: str
    model: str
    output: str
    videos: str | None = None
    checkpoints: str | None = None
    frames: int = 100
    fps: float = 1.0
    bank_length: int = 20
    merge_policy: str = "token"
    language: str | None = None
    rank: int = 16
    epochs: float = 20.0
    batch: int = 32
    at_once: int = 8
    every: int | None = None
    patience: int | None = None
    metric: str = "accuracy"
    warm: int = 1000
    rate: float = 1e-4
    decay: float = 0.05
    crops: bool = True
    precision: str = "auto"
    seed: int = 0
    workers: int = 1
    tensorboard: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        for option, choices in (
            ("merge_policy", MERGE_POLICIES),
            ("metric", METRICS),
            ("precision", PRECISIONS),
            ("language", (None, *LANGUAGE)),
        ):
            value = getattr(self, option)
            if value not in choices:
                named = ", ".join(choice for choice in choices if choice)
                raise ConfigError(f"--{option.replace('_', '-')} {value!r}: one of {named}")
        for option, least in (
            *(("frames", 1), ("bank_length", 1), ("rank", 1), ("batch", 1), ("at_once", 1), ("every", 1)),
            *(("patience", 1), ("warm", 0), ("seed", 0), ("workers", 0)),
        ):
            value = getattr(self, option)
            if value is not None and value < least:
                raise ConfigError(f"--{option.replace('_', '-')} {value}: at least {least}")
        for option in ("fps", "epochs", "rate"):
            value = getattr(self, option)
            if not (0 < value < math.inf):
                raise ConfigError(f"--{option} {value:g}: above 0")
        if not 0 <= self.decay < 1:
            raise ConfigError(f"--decay {self.decay:g}: from 0 to below 1")
        if self.batch < self.workers:
            raise ConfigError(f"--batch {self.batch}: fewer examples a step than --workers {self.workers}")
        if not self.output:
            raise ConfigError("--output: name the directory to write")

    @property
    def place(self) -> str:
        """The folder or URI of snapshots."""
        return self.checkpoints or f"{self.output.rstrip('/')}.training"

    def deciding(self) -> dict[str, Any]:
        """The settings that decide the losses."""
        values = asdict(self)
        return {name: values[name] for name in _DECIDING}
