"""Connect to the Ray cluster of a run: the one that is there, or one on this machine for the time of the run.

A program that calls this package stays as it was: Ray's messages, its loggers and standard error are left alone here.
The command line quiets them for its own process, in ``malmm.jobs.terminal.quiet_ray``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from malmm.pipeline.cluster.discovery import listens, recorded_head
from malmm.pipeline.cluster.fit import refuse_unfit
from malmm.pipeline.cluster.placement import alive_nodes, wait_for_nodes, wait_for_room, wants_of
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.process_state import ProcessState
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.cluster.session_folder import session_folder
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["connected", "connection"]

# A run on one machine holds a few decoded segments at a time. Pages of /dev/shm that are never touched cost nothing;
# the limit bounds what piles up before a slow consumer.
_LOCAL_OBJECT_STORE_BYTES = 1 << 30
# Ray ends workers that were idle for a second, except one for each CPU. A new worker needs seconds to load Arrow and
# Lance. On a small machine the light stages and decoding together have more workers than CPUs, so more are kept.
_KEPT_WORKERS = {"num_workers_soft_limit": (os.cpu_count() or 1) + 8}
_REACHABLE_WITHIN_S = 10.0
_REASON_LENGTH = 600
_ANY = ClusterPlan()


@contextmanager
def connected(
    plan: ClusterPlan = _ANY,
    *,
    verbose: bool = False,
    tell: OnProgress = lambda progress: None,
) -> Iterator[Resources]:
    """Connect as ``connection`` does, and yield the resources that a run has by its ``plan``.

    Waits until the cluster has room for a worker of each stage, and reports through ``tell`` what it waits for.
    Raises WorkerError if no cluster can be reached or started, or no worker can be started, and ConfigError if what is
    wanted cannot run on the nodes that are there.
    """
    with connection(verbose=verbose, tell=tell):
        yield _room(plan, tell)


@contextmanager
def connection(*, verbose: bool = False, tell: OnProgress = lambda progress: None) -> Iterator[None]:
    """Connect to a cluster for the time of a block.

    A process that is connected already stays so, before and after. Otherwise ``RAY_ADDRESS`` or the cluster that
    ``ray start`` made on this machine is used, and if there is none one is started and stopped again. ``verbose``
    prints the workers' output. Raises WorkerError if no cluster can be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    process = ProcessState()
    try:
        try:
            _start(verbose=verbose, tell=tell)
        finally:
            process.connected()
        yield
    finally:
        ray.shutdown()
        process.put_back()


def _room(plan: ClusterPlan, tell: OnProgress) -> Resources:
    nodes = wait_for_nodes(tell, plan.use, weights_bytes=plan.bytes_to_load)
    resources = plan.resources(nodes)
    refuse_unfit(wants_of(resources), nodes, may_grow=len(alive_nodes()) > 1)
    if plan.appetite is not None and (note := plan.appetite.note(resources, nodes)):
        tell(Progress("starting", note=note))
    wait_for_room(resources, tell, plan.use.labels)
    return resources


def _start(*, verbose: bool, tell: OnProgress) -> None:
    options: dict[str, Any] = {}
    if not verbose:
        options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    address, note = os.environ.get("RAY_ADDRESS", ""), ""
    # Ray asks for its token by itself only at a cluster that it finds by itself, so it is left to find that one again.
    found: str | None = address
    if address:
        _check_reachable(address)
    else:
        head = recorded_head()
        address = head.address if head is not None and head.alive else "local"
        found = "local" if address == "local" else None
        note = head.note if head is not None else ""
    tell(Progress("connecting", note=note))
    if address == "local":
        options |= {
            "include_dashboard": False,
            "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
            "_system_config": _KEPT_WORKERS,
            "_temp_dir": session_folder(),
        }
    try:
        ray.init(address=found, **options)
    except Exception as error:
        # All of them: when a machine is too busy to start in time, Ray raises the bare class.
        reason = " ".join(str(error.__cause__ or error).split())
        raise WorkerError(f"cannot {_attempt(address)}: {_end_of(reason)}") from error


def _end_of(reason: str) -> str:
    """The last of a long reason, in whole words: Ray's begin with where they were raised, and end with what to do."""
    return reason if len(reason) <= _REASON_LENGTH else f"… {reason[-_REASON_LENGTH:].partition(' ')[2]}"


def _attempt(address: str) -> str:
    if address == "local":
        return "start a Ray cluster"
    if os.environ.get("RAY_ADDRESS"):
        return f"connect to the Ray cluster at RAY_ADDRESS={address}"
    return f"connect to the Ray cluster at {address} (RAY_ADDRESS=local starts one for this run alone)"


def _check_reachable(address: str) -> None:
    """Raise WorkerError if nothing listens at ``HOST:PORT``: Ray itself would try for a quarter of an hour."""
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if host and port.isdecimal() and (reason := listens(place, within_s=_REACHABLE_WITHIN_S)):
        raise WorkerError(f"there is no Ray cluster at RAY_ADDRESS={address}: {reason}")
