"""What a run may use of a cluster that others use too, and what it waits for before it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["WHOLE_CLUSTER", "ClusterUse"]


@dataclass(frozen=True)
class ClusterUse:
    """``share`` of the workers that the cluster has room for, on nodes with these Ray ``labels`` alone.

    The run begins once ``nodes`` of them are there, at least one. Raises ConfigError for values that cannot work.
    """

    share: float = 1.0
    nodes: int = 0
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and 0 < self.share <= 1):
            raise ConfigError(f"--share {self.share:g}: above 0 and at most 1, the whole cluster")
        if self.nodes < 0:
            raise ConfigError(f"--nodes {self.nodes}: 0 or more")
        for name, value in self.labels:
            if not name or not value:
                raise ConfigError(
                    f"--label {name}={value}: write NAME=VALUE, as the nodes of the cluster have it"
                )


WHOLE_CLUSTER = ClusterUse()
"""All of the cluster, from the first node on."""
