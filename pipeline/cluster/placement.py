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
    "Labels",
    "Lack",
    "Want",
    "alive_nodes",
    "amount",
    "asked_and_there",
    "counted",
    "lacking",
    "lost_nodes",
    "node_ids",
    "on_nodes_with",
    "room_note",
    "usable",
    "wait_for_nodes",
    "wait_for_room",
    "wants_of",
]

Want = tuple[str, float, float]
"""A stage, and the CPUs and GPUs that a worker of it asks for."""
Labels = Sequence[tuple[str, str]]
"""Names and values of Ray's labels of nodes."""

#: Seconds without an answer after which a run says what it waits for.
SAY_AFTER_S = 5.0
_LOOK_EVERY_S = 0.5
_STAGE = "waiting for workers"
_NEGLIGIBLE = 1e-6
# Weights of about four billion parameters in half precision. On CPUs a segment takes minutes.
_HEAVY_BYTES = 8_000_000_000
# A node with GPUs has a resource whose name is this and that of its cards.
_CARD = "accelerator_type:"


def alive_nodes(labels: Labels = ()) -> list[Node]:
    """What Ray may use of each machine of the cluster that is there now, and has these labels."""
    found = [node["Resources"] for node in usable(ray.nodes(), labels)]
    return [
        Node(each.get("CPU", 0.0), each.get("GPU", 0.0), each.get("memory", math.inf), _card(each))
        for each in found
    ]


def usable(nodes: Iterable[dict[str, Any]], labels: Labels) -> list[dict[str, Any]]:
    """Of nodes as Ray describes them, those that are there and have these labels."""
    return [
        node
        for node in nodes
        if node["Alive"] and all(node.get("Labels", {}).get(name) == value for name, value in labels)
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
    asked: list[dict[str, float]] = []
    try:
        while True:
            nodes = alive_nodes(use.labels)
            lack = lacking(nodes, use, everywhere=len(alive_nodes()), weights_bytes=weights_bytes)
            if lack is None:
                return nodes
            if lack.bundles != asked:
                _ask_autoscaler(lack.bundles, use)
                asked = lack.bundles
            waited_s = time.monotonic() - began
            if waited_s >= SAY_AFTER_S:
                tell(Progress(_STAGE, note=lack.note, elapsed_s=waited_s))
            time.sleep(_LOOK_EVERY_S)
    finally:
        if asked:
            _ask_autoscaler([], use)


@dataclass(frozen=True)
class Lack:
    """What a cluster lacks: a sentence for people, and the bundles of resources that its autoscaler is asked for.

    The bundles are for all nodes of the run, also those that are there: an autoscaler compares them with the cluster's
    whole size.
    """

    note: str
    bundles: list[dict[str, float]]


def lacking(
    nodes: Sequence[Node], use: ClusterUse, *, everywhere: int = 0, weights_bytes: int = 0
) -> Lack | None:
    """What these nodes, of so many ``everywhere`` in the cluster, lack for a run to begin; None if nothing.

    On a single machine a large model is computed on CPUs. A cluster may have nodes with GPUs that come later, and a
    head without CPUs for tasks is the head of one.
    """
    workers = [node for node in nodes if node.cpus > 0]
    labelled = f" with {', '.join('='.join(label) for label in use.labels)}" if use.labels else ""
    heavy = weights_bytes >= _HEAVY_BYTES and (everywhere > 1 or not workers)
    there = f"{counted(len(nodes), 'node')}{labelled} in the cluster"
    bundles = _bundles(workers, use.nodes, with_gpu=heavy)
    why_gpu = (
        f"the model's weights are {weights_bytes / 1e9:.1f} GB; --resource encode_gpus=0 --resource generate_gpus=0 "
        "computes on CPUs"
    )
    if not workers:
        kind, why = ("a worker node with a GPU", f"; {why_gpu}") if heavy else ("a worker node", "")
        return Lack(
            f"waiting for {kind}: {there}, none with a CPU for tasks; `ray start --address=HEAD:PORT` on a "
            f"machine adds one, as does a worker group of the cluster{why}",
            bundles,
        )
    if len(workers) < use.nodes:
        return Lack(
            f"waiting for worker nodes: {len(workers)} of {use.nodes} are there, with a CPU for tasks{labelled}; a "
            "run with a smaller --nodes begins with those that are there",
            bundles,
        )
    if heavy and not any(node.gpus >= 1 for node in workers):
        return Lack(f"waiting for a node with a GPU: {there}, none with a GPU, and {why_gpu}", bundles)
    return None


def _bundles(workers: Sequence[Node], count: int, *, with_gpu: bool) -> list[dict[str, float]]:
    """What an autoscaler is asked for, so that it has ``count`` nodes, one of them with a GPU where that is wanted.

    An autoscaler puts several small bundles on one node. So each node that is there is asked for whole, and each that
    is not, in the largest size that is known. Once a larger node is there, it is asked again.
    """
    own = [{"CPU": node.cpus} | ({"GPU": node.gpus} if node.gpus else {}) for node in workers]
    suited = [node for node in workers if node.gpus >= 1] if with_gpu else list(workers)
    largest = max(suited, key=lambda node: (node.gpus * with_gpu, node.cpus), default=Node(1.0, 1.0))
    other = {"CPU": largest.cpus} | ({"GPU": largest.gpus} if with_gpu else {})
    return own + [other] * max(count - len(own), int(not suited))


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
    elif _nobody_else_holds_any(wants, nodes, available):
        return f"starting a process for each of {has}; nothing else runs there: a busy machine takes its time"
    else:
        way_out = (
            "other jobs hold the rest: it goes on when one ends (`ray list actors` shows them), or add a node"
        )
    return f"waiting for room for {has}; {way_out}"


def _nobody_else_holds_any(wants: list[Want], nodes: list[Node], available: dict[str, float]) -> bool:
    """Whether what is not free is at most what the workers themselves were given, whose processes then only start.

    ``available`` is of the whole cluster: where ``nodes`` are a part of it, and less than is free, nothing is known.
    """
    held = [
        sum(node.cpus for node in nodes) - available.get("CPU", 0.0),
        sum(node.gpus for node in nodes) - available.get("GPU", 0.0),
    ]
    given = [sum(want[1] for want in wants), sum(want[2] for want in wants)]
    return all(-_NEGLIGIBLE <= has <= may + _NEGLIGIBLE for has, may in zip(held, given, strict=True))


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
    if resources.one_model:
        return [decode, ("encode", resources.encode_cpus, resources.encode_gpus)]
    if resources.one_actor:
        return [decode, ("encode and generate", resources.actor_cpus, resources.actor_gpus)]
    return [
        decode,
        ("encode", resources.encode_cpus, resources.encode_gpus),
        ("generate", resources.generate_cpus, resources.generate_gpus),
    ]


def _asked(cpus: float, gpus: float, labels: Labels) -> Any:
    return ray.remote(num_cpus=cpus, num_gpus=gpus, **on_nodes_with(labels))(_nothing).remote()


def on_nodes_with(labels: Labels) -> dict[str, Any]:
    """Options of a task or actor that is to run on nodes with these labels alone."""
    return {"label_selector": dict(labels)} if labels else {}


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
