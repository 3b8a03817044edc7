"""How many workers each stage of a run gets on a cluster, and what Ray reserves for one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from malmm.pipeline.cluster.cards import CARDS, UNKNOWN
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["Node", "Resources", "choose_resources", "for_one_model", "share_of", "with_wishes"]

# Room for a task of each of the stages that plan, and for those that wait for an actor with models and write.
_PLANNING_CPUS, _WAITING_CPUS_AN_ACTOR = 0.05, 0.05


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
    #: What an actor with models reserves of a node's memory.
    actor_memory_bytes: int = 0
    #: Whether the run has no generator: what is said of an encoder is said of its only model.
    one_model: bool = False

    def __post_init__(self) -> None:
        if min(self.decode_workers, self.encode_workers, self.generate_workers) < 1:
            raise ConfigError("every stage needs at least one worker")
        for name in ("decode_cpus", "encode_cpus", "encode_gpus", "generate_cpus", "generate_gpus"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} cannot be below 0")
        encode, generate = self.encode_gpus, self.generate_gpus
        if encode and generate and not self.shares_gpu and (encode % 1 or generate % 1):
            raise ConfigError(
                f"encode_gpus {encode:g} and generate_gpus {generate:g}: an encoder and a generator either share a "
                "GPU, with parts that are 1 together at most, or each has whole ones; with other parts, some would "
                "find no GPU once the others are placed"
            )
        if self.shares_gpu and self.encode_workers != self.generate_workers:
            raise ConfigError(
                f"encode_workers {self.encode_workers} and generate_workers {self.generate_workers}: an encoder and a "
                f"generator share a GPU ({encode:g} and {generate:g} of it), so there are as many of both; to have "
                "other numbers, set encode_gpus and generate_gpus to 1"
            )

    @property
    def shares_gpu(self) -> bool:
        """Whether an encoder and a generator share a GPU: each asks for a part of one, and the parts fit it."""
        return (
            min(self.encode_gpus, self.generate_gpus) > 0
            and self.encode_gpus + self.generate_gpus <= 1 + 1e-9
        )

    @property
    def one_actor(self) -> bool:
        """Whether one actor holds an encoder and a generator: on one GPU, or both on CPUs and as many of each.

        A process with torch takes seconds to start.
        """
        on_cpus = self.encode_gpus == self.generate_gpus == 0
        return self.one_model or self.shares_gpu or (on_cpus and self.encode_workers == self.generate_workers)

    @property
    def actor_cpus(self) -> float:
        """What an actor that holds both reserves of CPUs."""
        return self.encode_cpus + self.generate_cpus

    @property
    def actor_gpus(self) -> float:
        """What an actor that holds both reserves of a GPU."""
        return min(1.0, self.encode_gpus + self.generate_gpus)


@dataclass(frozen=True)
class Node:
    """What Ray may use of one machine. ``card`` is Ray's name of its GPUs, such as ``A100``; empty if not known."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: float = math.inf
    card: str = ""


def choose_resources(nodes: Sequence[Node], weights_bytes: int = 0) -> Resources:
    """Workers for a cluster of these nodes, such that one worker of each stage runs at once and no node idles.

    Each GPU, and without GPUs each node, has an actor that holds an encoder and a generator: however the work is
    divided between the two, all GPUs are busy. ``weights_bytes`` is the model's size in half precision: a node gets no
    more actors than can load it at once. On its way to a GPU a model is in the node's memory; on CPUs it stays there,
    in single precision. Raises ConfigError if no node can load it, or a card is known to be too small for it.
    """
    nodes = [node for node in nodes if node.cpus > 0] or [Node(1.0)]
    on_gpus = any(node.gpus >= 1 for node in nodes)
    memory_bytes = weights_bytes if on_gpus else 2 * weights_bytes
    if on_gpus:
        _refuse_small_cards(nodes, weights_bytes)
    actors = [_actors(node, memory_bytes, on_gpus=on_gpus) for node in nodes]
    if not any(actors):
        where = "to load it for a GPU" if on_gpus else "on CPUs"
        largest = max(node.memory_bytes for node in nodes if node.gpus >= 1 or not on_gpus)
        raise ConfigError(
            f"the model's weights take {memory_bytes / 1e9:.1f} GB of memory {where}, and Ray may use "
            f"{largest / 1e9:.1f} GB at most on a node: take a smaller model (`malmm models` lists some), or start Ray "
            "there with a larger --memory"
        )
    return replace(_chosen(nodes, actors, on_gpus=on_gpus), actor_memory_bytes=memory_bytes)


def _refuse_small_cards(nodes: Sequence[Node], weights_bytes: int) -> None:
    """Raise ConfigError if a GPU that may get the model has less memory than its weights take.

    Ray places actors on any GPU, so that one of another node is no help.
    """
    card = min((node.card for node in nodes if node.gpus >= 1), key=_memory_of)
    if weights_bytes > _memory_of(card):
        raise ConfigError(
            f"the model's weights take {weights_bytes / 1e9:.1f} GB of a GPU's memory, and {card} has "
            f"{_memory_of(card) / 1e9:.0f} GB: take a smaller model (`malmm models` lists some), or only nodes with "
            "larger cards (--label), or put encoder and generator on GPUs of their own (--resource encode_gpus=1 "
            "--resource generate_gpus=1)"
        )


def _memory_of(card: str) -> float:
    return CARDS.get(card, UNKNOWN).memory_bytes


def _actors(node: Node, memory_bytes: int, *, on_gpus: bool) -> int:
    """How many actors with models a node has: one a GPU, or one, as far as its memory goes."""
    most = int(node.gpus) if on_gpus else 1
    return min(most, int(min(most, node.memory_bytes / memory_bytes))) if memory_bytes else most


def _chosen(nodes: Sequence[Node], actors: Sequence[int], *, on_gpus: bool) -> Resources:
    count = sum(actors)
    if not on_gpus:
        # Small shares: when nodes are lost, the actors that move to the remaining ones must leave room for decoding.
        decoders = sum(max(1, int(node.cpus)) for node in nodes)
        decode_cpus = 0.2 * min(1.0, *(node.cpus for node in nodes))
        return Resources(decoders, decode_cpus, count, 0.1, 0.0, count, 0.05, 0.0)
    # Actors hold their shares for the whole run: on few CPUs they leave half to decoding and the light stages.
    actor_cpus = min(0.5, *(0.25 * node.cpus / int(node.gpus) for node in nodes if node.gpus >= 1))
    # A task needs its CPU on one node: what is left on several nodes cannot be added up.
    left = [
        node.cpus - int(node.gpus) * (2 * actor_cpus + _WAITING_CPUS_AN_ACTOR) - _PLANNING_CPUS
        for node in nodes
    ]
    decode_cpus = max(0.01, min(1.0, max(left)))
    decoders = max(1, sum(max(0, int(cpus / decode_cpus)) for cpus in left))
    return Resources(decoders, decode_cpus, count, actor_cpus, 0.6, count, actor_cpus, 0.4)


def for_one_model(resources: Resources) -> Resources:
    """The same workers for a run with a single model, which gets what an encoder and a generator have together."""
    return replace(
        resources,
        encode_cpus=resources.actor_cpus,
        encode_gpus=resources.actor_gpus,
        generate_cpus=0.0,
        generate_gpus=0.0,
        one_model=True,
    )


def share_of(resources: Resources, share: float) -> Resources:
    """A share of the workers, at least one of each stage."""

    def part(workers: int) -> int:
        # A third of six, computed, may be less than two.
        return max(1, int(share * workers + 1e-9))

    return replace(
        resources,
        decode_workers=part(resources.decode_workers),
        encode_workers=part(resources.encode_workers),
        generate_workers=part(resources.generate_workers),
    )


def with_wishes(chosen: Resources, wishes: Sequence[tuple[str, float]]) -> Resources:
    """What is ``chosen``, with the user's values instead. Raises ConfigError for values that cannot work.

    Where an encoder and a generator share an actor, the number of one is that of the other, unless both are named.
    """
    changes: dict[str, Any] = {
        name: int(value) if name.endswith("_workers") else value for name, value in wishes
    }
    shares = replace(chosen, **{name: value for name, value in changes.items() if name.endswith("_gpus")})
    numbers = [changes[name] for name in ("encode_workers", "generate_workers") if name in changes]
    if shares.shares_gpu and len(numbers) == 1:
        changes |= dict.fromkeys(("encode_workers", "generate_workers"), numbers[0])
    return replace(chosen, **changes)
