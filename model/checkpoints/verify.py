"""Verify a run's checkpoints before any worker loads them: complete, readable, and matching each other.

Reads the files' headers and builds modules on torch's meta device, so that a wrong checkpoint raises one sentence on
the driver at once, instead of killing workers minutes later. Reads only the weights of the image encoders, to compare
them.
"""

from __future__ import annotations

from malmm.model.checkpoints.resolve import Models
from malmm.model.families.registry import family_of, refuse_other_processor
from malmm.model.towers.registry import tower_of

__all__ = ["verify_models"]


def verify_models(models: Models) -> None:
    """Raise CheckpointError for a missing, unexpected or wrongly sized tensor, an unreadable tokenizer, another
    family's processor, or a retrieval model that does not fit the model.
    """
    refuse_other_processor(models.checkpoint)
    family_of(models.checkpoint).verify(models.checkpoint)
    if models.retrieval is not None:
        tower_of(models.retrieval).verify(models.retrieval, models.checkpoint)
