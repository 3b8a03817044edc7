"""The plan of a run on a cluster: from the nodes that are there to the workers of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmm.pipeline.cluster.appetite import Appetite
from malmm.pipeline.cluster.resources import (
    Node,
    Resources,
    choose_resources,
    for_one_model,
    share_of,
    with_wishes,
)
from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse

__all__ = ["ClusterPlan"]


@dataclass(frozen=True)
class ClusterPlan:
    """What is known of a run before its cluster: what the user ``wanted``, such as ``("decode_workers", 4.0)``, what it
    may ``use`` of the cluster, how large its model is in half precision, what its encoders eat, and whether it has
    ``one_model`` and no generator.
    """

    wanted: tuple[tuple[str, float], ...] = ()
    use: ClusterUse = WHOLE_CLUSTER
    weights_bytes: int = 0
    appetite: Appetite | None = None
    one_model: bool = False

    @property
    def bytes_to_load(self) -> int:
        """The model's size, or 0 if the user said where it is computed, and so what that takes."""
        return 0 if any(name.endswith("_gpus") for name, _ in self.wanted) else self.weights_bytes

    def resources(self, nodes: Sequence[Node]) -> Resources:
        """Workers for a cluster of these nodes. Raises ConfigError if they cannot hold the model."""
        chosen = choose_resources(nodes, self.bytes_to_load)
        if self.appetite is not None:
            chosen = self.appetite.limited(chosen, nodes)
        chosen = share_of(chosen, self.use.share)
        if not self.one_model:
            return with_wishes(chosen, self.wanted)
        # A run that indexes first says what its generators reserve.
        wanted = [wish for wish in self.wanted if not wish[0].startswith("generate_")]
        return with_wishes(for_one_model(chosen), wanted)
