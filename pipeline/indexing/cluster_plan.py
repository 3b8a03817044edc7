"""What a run of indexing knows of its needs before it sees the cluster."""

from __future__ import annotations

from functools import partial

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.published.catalogue import published
from malmm.pipeline.cluster.appetite import Appetite
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.schema.config import IndexConfig, Recipe

__all__ = ["cluster_plan", "frame_flop"]


def cluster_plan(config: IndexConfig, recipe: Recipe, checkpoint: Checkpoint) -> ClusterPlan:
    """The plan for indexing with this model."""
    appetite = Appetite(partial(frame_flop, checkpoint), recipe.fps, keyframes=recipe.sampling == "keyframes")
    return ClusterPlan(config.resources, config.cluster, checkpoint.half_bytes, appetite)


def frame_flop(checkpoint: Checkpoint) -> int:
    """Operations of a frame in the vision encoder. Loads torch for a model that is not in the catalogue."""
    if (known := published(checkpoint.name)) is not None:
        return known.frame_flop
    from malmm.model.families.registry import family_of

    return family_of(checkpoint).frame_flop(checkpoint)
