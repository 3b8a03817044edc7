"""A worker's share of a fine-tuning, whether it runs under Ray Train or in the process of its caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.family import half_precision
from malmm.model.families.plain.family import PlainFamily
from malmm.model.families.registry import family_of, image_size, row_of
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.learner import Learner
from malmm.model.training.loop import Recipe, State, TrainingError, train
from malmm.model.training.peers import Alone, Peers
from malmm.model.training.plain_learner import PlainLearner
from malmm.model.training.qformer_learner import QFormerLearner, refuse_encoder_decoder
from malmm.operators.device import choose_device
from malmm.pipeline.finetuning.config import FinetuneConfig
from malmm.pipeline.finetuning.examples import Examples
from malmm.pipeline.finetuning.feed import PlannedFeed, Sampled
from malmm.pipeline.finetuning.plan import Plan, steps_of
from malmm.pipeline.finetuning.snapshots import Snapshots
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["Job", "language_training", "learner_of", "recipe_of", "work"]

# With fewer steps than these the paper's warm-up would never end.
_WARM_SHARE = 10


@dataclass(frozen=True)
class Job:
    """What every worker of a training is given. ``model`` is the base's name, with its commit if it is of the hub."""

    config: FinetuneConfig
    model: str
    examples: Examples

    @property
    def image_size(self) -> int:
        """The side of the model's frames in pixels."""
        return image_size(open_models(self.model, NO_RETRIEVAL).checkpoint)


def language_training(config: FinetuneConfig, checkpoint: Checkpoint) -> str:
    """How the language model is trained. Raises ConfigError for a plain family with nothing to train, and
    CheckpointError for a model without a training step."""
    row = row_of(checkpoint)
    if not row.reads_slots:
        refuse_encoder_decoder(checkpoint)
    if config.language is None:
        return "lora" if row.reads_slots else "frozen"
    if config.language == "frozen" and row.reads_slots:
        raise ConfigError(
            f"--language frozen: {row.name} has no Q-Former, so nothing would be trained: take lora"
        )
    return config.language


def recipe_of(config: FinetuneConfig, examples: int) -> Recipe:
    """The loop's recipe for this many examples."""
    steps, every = steps_of(config, examples)
    return Recipe(
        steps=steps,
        batch=config.batch,
        every=every,
        warm=min(config.warm, steps // _WARM_SHARE),
        rate=config.rate,
        decay=config.decay,
        at_once=config.at_once,
        patience=config.patience,
        metric=config.metric,
    )


def learner_of(config: FinetuneConfig, checkpoint: Checkpoint, device: torch.device) -> Learner:
    """The model that learns. Raises CheckpointError and ConfigError, and ImportError for adapters without peft."""
    settings = MemorySettings(config.bank_length, config.merge_policy)
    options: dict[str, Any] = {
        "language": language_training(config, checkpoint),
        "rank": config.rank,
        "seed": config.seed,
        "device": device,
        "exact": config.precision == "float64",
    }
    family = family_of(checkpoint)
    if isinstance(family, PlainFamily):
        return PlainLearner(checkpoint, family, settings, **options)
    return QFormerLearner(checkpoint, settings, **options)


def work(
    job: Job,
    sampled: Sampled,
    peers: Peers | None = None,
    *,
    device: str | None = None,
    tell: Callable[[State], None] = lambda state: None,
) -> State:
    """Train, and let the first worker keep what was trained. Returns the state at the end.

    Raises ConfigError for a training that diverges or does not fit the GPU, DataSetError for a clip that cannot be
    read.
    """
    config, peers, chosen = job.config, peers or Alone(), choose_device(device)
    checkpoint = open_models(job.model, NO_RETRIEVAL).checkpoint
    learner = learner_of(config, checkpoint, chosen)
    feed = PlannedFeed(
        Plan(job.examples.train, config), job.examples.val, sampled, rank=peers.rank, count=peers.count
    )
    snapshots = Snapshots(config.place)

    def told(state: State) -> None:
        if peers.rank == 0:
            snapshots.tell(state)
        tell(state)

    with _one_sentence(config):
        state = train(
            learner,
            recipe_of(config, len(job.examples.train)),
            feed,
            snapshots,
            peers,
            lower=_lower(config, chosen),
            tell=told,
        )
    if peers.rank == 0:
        snapshots.finish(learner.trained_tensors())
    return state


def _lower(config: FinetuneConfig, device: torch.device) -> torch.dtype | None:
    if config.precision == "bfloat16":
        return torch.bfloat16
    return half_precision(device) if config.precision == "auto" and device.type == "cuda" else None


@contextmanager
def _one_sentence(config: FinetuneConfig) -> Iterator[None]:
    try:
        yield
    except TrainingError as error:
        raise ConfigError(f"--rate {config.rate:g}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"--at-once {config.at_once}: the GPU's memory is too small: take fewer, or fewer --frames"
        ) from error
