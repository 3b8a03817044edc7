"""How much memory the workers of a run have, on graphics cards and in RAM. The default model is chosen by it.

Where a run would start Ray on this machine, this machine's memory is read directly, without Ray. On a cluster a small
task runs on each machine that has a CPU for tasks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from malmm.pipeline.cluster.discovery import recorded_head
from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.progress import OnProgress

__all__ = ["Equipment", "least_of", "this_machine", "workers_equipment"]

# Files of drivers: without one of them there is no card, and torch need not be loaded to say so.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
_MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_ANSWER_WITHIN_S = 120.0


@dataclass(frozen=True)
class Equipment:
    """Memory of a worker: ``gpu_bytes`` of its graphics card, None without a card, and ``ram_bytes``."""

    ram_bytes: int
    gpu_bytes: int | None = None


def this_machine(limits: Sequence[str] = _MEMORY_LIMITS, drivers: Sequence[str] = _DRIVERS) -> Equipment:
    """The memory of this machine, or of the container that this is; of several cards the smallest one's."""
    ram = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, limits):
        text = path.read_text(encoding="ascii").strip() if path.is_file() else ""
        if text.isdecimal():
            ram.append(int(text))
    return Equipment(min(ram), _smallest_card() if any(Path(path).exists() for path in drivers) else None)


def least_of(machines: Iterable[Equipment]) -> Equipment:
    """The smallest memory of the machines that models run on: those with cards if there are any, else all.

    Raises WorkerError without machines.
    """
    found = list(machines)
    cards = [machine.gpu_bytes for machine in found if machine.gpu_bytes]
    if not found:
        raise WorkerError("the cluster has no machine with a CPU for tasks: name a model with --model")
    holders = [machine for machine in found if machine.gpu_bytes or not cards]
    return Equipment(min(machine.ram_bytes for machine in holders), min(cards) if cards else None)


def workers_equipment(
    tell: OnProgress = lambda progress: None, use: ClusterUse = WHOLE_CLUSTER, *, verbose: bool = False
) -> Equipment:
    """Memory of each worker of a run that starts now. Connects to the cluster, if there is one, and disconnects.

    Waits for the nodes that the run waits for, and looks at those that it may use.
    Raises WorkerError if the cluster cannot be reached or does not answer.
    """
    head = recorded_head()
    address = os.environ.get("RAY_ADDRESS") or ("there" if head is not None and head.alive else "local")
    if address == "local" and not _is_connected():
        return this_machine()
    # Ray takes seconds to load.
    from malmm.pipeline.cluster.connection import connection
    from malmm.pipeline.cluster.placement import wait_for_nodes

    with connection(verbose=verbose, tell=tell):
        wait_for_nodes(tell, use)
        return least_of(_asked(use))


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _asked(use: ClusterUse) -> list[Equipment]:
    """The answer of each node that may be used."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from malmm.pipeline.cluster.placement import usable

    answers = []
    for node in usable(ray.nodes(), use.labels):
        resources = node["Resources"]
        if resources.get("CPU", 0) > 0:
            task = ray.remote(this_machine).options(
                num_cpus=0.01,
                # Without a share of a card, Ray hides the cards.
                num_gpus=0.01 if resources.get("GPU", 0) >= 1 else 0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                max_retries=1,
            )
            answers.append(task.remote())
    try:
        return list(ray.get(answers, timeout=_ANSWER_WITHIN_S))
    except GetTimeoutError as error:
        raise WorkerError(
            f"the workers did not answer within {_ANSWER_WITHIN_S:g} s how much memory they have, which is needed to "
            "choose a model: name one with --model"
        ) from error
    except RayError as error:
        reason = " ".join(str(error).split())[-400:]
        raise WorkerError(
            f"the workers cannot say how much memory they have ({reason}): name a model with --model"
        ) from error


def _smallest_card() -> int | None:
    import torch

    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    return min(torch.cuda.get_device_properties(index).total_memory for index in range(count))
