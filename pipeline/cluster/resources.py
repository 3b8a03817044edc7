"""How many workers each stage of a run gets on a cluster, and what Ray reserves for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["Node", "Resources", "choose_resources", "share_of"]

# Room for a task of each of the stages that plan and write.
_LIGHT_STAGES_CPUS = 0.1


@dataclass(frozen=True)
class Resources:
    """How many workers each stage has and what Ray reserves for one of them.

    Raises ConfigError for values that cannot work. On a machine without GPUs the CPU shares are below 1, because actors
    hold theirs for the whole run and decoding needs room beside them; torch still uses all cores.
    """

    decode_workers: int
    decode_cpus: float
    encode_workers: int
    encode_cpus: float
    encode_gpus: float
    generate_workers: int
    generate_cpus: float
    generate_gpus: float

    def __post_init__(self) -> None:
        if min(self.decode_workers, self.encode_workers, self.generate_workers) < 1:
            raise ConfigError("every stage needs at least one worker")
        for name in ("decode_cpus", "encode_cpus", "encode_gpus", "generate_cpus", "generate_gpus"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} cannot be below 0")


@dataclass(frozen=True)
class Node:
    """What Ray may use of one machine."""

    cpus: float
    gpus: float = 0.0


def choose_resources(nodes: Sequence[Node]) -> Resources:
    """Workers for a cluster of these nodes, such that one worker of each stage runs at once and no node idles.

    Each GPU has an encoder and a generator, which share it: however the work is divided between the two, all GPUs
    are busy. Without GPUs each node has one of both.
    """
    nodes = [node for node in nodes if node.cpus > 0] or [Node(1.0)]
    gpus = sum(int(node.gpus) for node in nodes)
    if gpus < 1:
        # Small shares: when nodes are lost, the actors that move to the remaining ones must leave room for decoding.
        decoders = sum(max(1, int(node.cpus)) for node in nodes)
        decode_cpus = 0.2 * min(1.0, *(node.cpus for node in nodes))
        return Resources(decoders, decode_cpus, len(nodes), 0.1, 0.0, len(nodes), 0.05, 0.0)
    # Actors hold their shares for the whole run: on few CPUs they leave half to decoding and the light stages.
    actor_cpus = min(0.5, *(0.25 * node.cpus / int(node.gpus) for node in nodes if node.gpus >= 1))
    # A task needs its CPU on one node: what is left on several nodes cannot be added up.
    left = [node.cpus - 2 * int(node.gpus) * actor_cpus - _LIGHT_STAGES_CPUS for node in nodes]
    decode_cpus = max(0.01, min(1.0, max(left)))
    decoders = max(1, sum(max(0, int(cpus / decode_cpus)) for cpus in left))
    # More than half of a GPU: two encoders never share one, so there is a place for each.
    return Resources(decoders, decode_cpus, gpus, actor_cpus, 0.6, gpus, actor_cpus, 0.4)


def share_of(resources: Resources, share: float) -> Resources:
    """A share of the workers, at least one of each stage."""
    return replace(
        resources,
        decode_workers=max(1, int(share * resources.decode_workers)),
        encode_workers=max(1, int(share * resources.encode_workers)),
        generate_workers=max(1, int(share * resources.generate_workers)),
    )
