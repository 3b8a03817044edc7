"""Wait until a cluster has room for a run's workers, and report meanwhile what the run waits for.

Ray queues a task that no node has room for, without a time limit and without a message. So before a run begins, it
starts one small task for each kind of worker, which waits in Ray's own queue as the worker itself would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from malmm.pipeline.cluster.resources import Node, Resources
from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = [
    "Lack",
    "Want",
    "alive_nodes",
    "amount",
    "asked_and_there",
    "counted",
    "lacking",
    "lost_nodes",
    "node_ids",
    "room_note",
    "wait_for_nodes",
    "wait_for_room",
    "wants_of",
]

Want = tuple[str, float, float]
"""A stage, and the CPUs and GPUs that a worker of it asks for."""
Labels = Sequence[tuple[str, str]]

#: Seconds without an answer after which a run says what it waits for.
SAY_AFTER_S = 5.0
_LOOK_EVERY_S = 0.5
_STAGE = "waiting for workers"
# Weights of about four billion parameters in half precision. On CPUs a segment takes minutes.
_HEAVY_BYTES = 8_000_000_000
# A node with GPUs has a resource whose name is this and that of its cards.
_CARD = "accelerator_type:"


def alive_nodes(labels: Labels = ()) -> list[Node]:
    """What Ray may use of each machine of the cluster that is there now, and has these labels."""
    found = [
        node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and all(node.get("Labels", {}).get(name) == value for name, value in labels)
    ]
    return [
        Node(each.get("CPU", 0.0), each.get("GPU", 0.0), each.get("memory", math.inf), _card(each))
        for each in found
    ]


def _card(resources: Mapping[str, float]) -> str:
    return next((name.removeprefix(_CARD) for name in resources if name.startswith(_CARD)), "")


def node_ids() -> frozenset[str]:
    """Ray's names of the machines that are there now."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def lost_nodes() -> int:
    """How many machines the cluster has lost so far."""
    return sum(not node["Alive"] for node in ray.nodes())


def wait_for_nodes(
    tell: OnProgress, use: ClusterUse = WHOLE_CLUSTER, *, weights_bytes: int = 0
) -> list[Node]:
    """The machines that a run may use, once there are enough of them; a head alone often has no CPU for tasks.

    Meanwhile the cluster's autoscaler, if it has one, is asked for what is missing. ``weights_bytes`` are those of the
    run's model in half precision, 0 for one that may be computed on CPUs.
    """
    began = time.monotonic()
    has_asked = False
    try:
        while True:
            nodes = alive_nodes(use.labels)
            lack = lacking(nodes, use, everywhere=len(alive_nodes()), weights_bytes=weights_bytes)
            if lack is None:
                return nodes
            if not has_asked:
                _ask_autoscaler([lack.bundle] * max(1, use.nodes), use)
                has_asked = True
            waited_s = time.monotonic() - began
            if waited_s >= SAY_AFTER_S:
                tell(Progress(_STAGE, note=lack.note, elapsed_s=waited_s))
            time.sleep(_LOOK_EVERY_S)
    finally:
        if has_asked:
            _ask_autoscaler([], use)


@dataclass(frozen=True)
class Lack:
    """What a cluster lacks: a sentence for people, and the resources of a node that the autoscaler is asked for."""

    note: str
    bundle: dict[str, float]


def lacking(
    nodes: Sequence[Node], use: ClusterUse, *, everywhere: int = 0, weights_bytes: int = 0
) -> Lack | None:
    """What these nodes, of so many ``everywhere`` in the cluster, lack for a run to begin; None if nothing.

    On a single machine a large model is computed on CPUs. A cluster may have nodes with GPUs that come later.
    """
    workers = [node for node in nodes if node.cpus > 0]
    labelled = f" with {', '.join('='.join(label) for label in use.labels)}" if use.labels else ""
    heavy = weights_bytes >= _HEAVY_BYTES and everywhere > 1
    bundle = {"CPU": 1.0} | ({"GPU": 1.0} if heavy else {})
    there = f"{counted(len(nodes), 'node')}{labelled} in the cluster"
    if not workers:
        return Lack(
            f"waiting for a worker node: {there}, none with a CPU for tasks; `ray start --address=HEAD:PORT` on a "
            "machine adds one, as does a worker group of the cluster",
            bundle,
        )
    if len(workers) < use.nodes:
        return Lack(
            f"waiting for worker nodes: {len(workers)} of {use.nodes} are there, with a CPU for tasks{labelled}; a "
            "run with a smaller --nodes begins with those that are there",
            bundle,
        )
    if heavy and not any(node.gpus >= 1 for node in workers):
        return Lack(
            f"waiting for a node with a GPU: {there}, none with a GPU, and the model's weights are "
            f"{weights_bytes / 1e9:.1f} GB; --resource encode_gpus=0 --resource generate_gpus=0 computes on CPUs",
            bundle,
        )
    return None


def _ask_autoscaler(bundles: list[dict[str, float]], use: ClusterUse) -> None:
    """Ask for these resources, in place of what was asked for before; where there is no autoscaler nothing happens."""
    from ray.autoscaler.sdk import request_resources

    selectors = [dict(use.labels) for _ in bundles] if use.labels and bundles else None
    request_resources(bundles=bundles, bundle_label_selectors=selectors)


def wait_for_room(resources: Resources, tell: OnProgress, labels: Labels = ()) -> None:
    """Wait until a worker of each stage has found room once. Raises WorkerError if Ray cannot start a worker."""
    began = time.monotonic()
    waiting = {_asked(cpus, gpus, labels): (name, cpus, gpus) for name, cpus, gpus in wants_of(resources)}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_LOOK_EVERY_S)
            for reference in ready:
                ray.get(reference)
                del waiting[reference]
            waited_s = time.monotonic() - began
            if waiting and waited_s >= SAY_AFTER_S:
                note = room_note(waiting.values(), alive_nodes(labels), ray.available_resources())
                tell(Progress(_STAGE, note=note, elapsed_s=waited_s))
    except RayError as error:
        raise WorkerError(
            f"the cluster cannot start a worker: {' '.join(str(error).split())[-600:]}"
        ) from error
    finally:
        for reference in waiting:
            ray.cancel(reference)


def room_note(asked: Iterable[Want], nodes: list[Node], available: dict[str, float]) -> str:
    """What the run waits for, as one sentence: the workers ``asked`` for, and the cluster's resources."""
    wants = list(asked)
    has = asked_and_there(wants, nodes, available)
    too_large = [want for want in wants if not any(_fits(node, want) for node in nodes)]
    if too_large:
        name, cpus, _ = too_large[0]
        what = "cpus" if not any(node.cpus >= cpus for node in nodes) else "gpus"
        option = f"--resource {name.split()[0]}_{what}=N"
        way_out = f"no node is large enough for {name}: add one, or ask for less with {option}"
    else:
        way_out = (
            "other jobs hold the rest: it goes on when one ends (`ray list actors` shows them), or add a node"
        )
    return f"waiting for room for {has}; {way_out}"


def asked_and_there(asked: Iterable[Want], nodes: list[Node], available: dict[str, float]) -> str:
    """Workers ``asked`` for, and what the cluster has and has ``available``, as part of a sentence."""
    text = ", ".join(f"{name} ({amount(cpus, gpus or None)})" for name, cpus, gpus in asked)
    total = Node(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes))
    there = f"{counted(len(nodes), 'node')} with {amount(total.cpus, total.gpus or None)}"
    free = amount(available.get("CPU", 0.0), available.get("GPU", 0.0) if total.gpus else None)
    return f"{text}: {there}, of which {free} are free"


def _fits(node: Node, want: Want) -> bool:
    return node.cpus >= want[1] and node.gpus >= want[2]


def wants_of(resources: Resources) -> list[Want]:
    """What a worker of each stage asks for."""
    decode = ("decode", resources.decode_cpus, 0.0)
    if resources.one_actor:
        return [decode, ("encode and generate", resources.actor_cpus, resources.actor_gpus)]
    return [
        decode,
        ("encode", resources.encode_cpus, resources.encode_gpus),
        ("generate", resources.generate_cpus, resources.generate_gpus),
    ]


def _asked(cpus: float, gpus: float, labels: Labels) -> Any:
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
    if labels:
        options["label_selector"] = dict(labels)
    return ray.remote(**options)(_nothing).remote()


def _nothing() -> None:
    """Runs where a worker would run. That it runs at all is the answer."""


def counted(count: int, what: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def amount(cpus: float, gpus: float | None) -> str:
    """``2 CPUs and 1 GPU``; without GPUs where ``gpus`` is None."""
    text = _share(cpus, "CPU")
    return text if gpus is None else f"{text} and {_share(gpus, 'GPU')}"


def _share(share: float, what: str) -> str:
    return f"{share:g} {what}" if share == 1 else f"{share:g} {what}s"
