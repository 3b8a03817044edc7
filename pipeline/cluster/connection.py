"""The Ray cluster that a run uses: the one that is there, or one on this machine that it starts itself."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray

from malmm.pipeline.schema.errors import ConfigError, MalmmError, WorkerError

__all__ = ["Node", "Resources", "choose_resources", "connected"]

# A run of one machine holds a few decoded segments at a time; /dev/shm pages that are never touched cost
# nothing, so this bounds what a slow consumer can pile up.
_LOCAL_OBJECT_STORE_BYTES = 1 << 30
# Ray ends workers that have been idle for a second, beyond one a CPU, and starting one anew loads Arrow and Lance for
# seconds: the light stages and decoding together have more than that on a small machine.
_KEPT_WORKERS = {"num_workers_soft_limit": (os.cpu_count() or 1) + 8}
# Room for a task of each of the stages that plan and write.
_LIGHT_STAGES_CPUS = 0.1
_REACHABLE_WITHIN_S = 10.0


@dataclass(frozen=True)
class Resources:
    """How many workers each stage has and what Ray reserves for one of them.

    Rejects what cannot run. On a machine without GPUs the CPU shares are below 1, because actors hold theirs
    for the whole run and decoding must find room beside them; torch still uses all cores.
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
        # Small shares: on a node that is left when others are lost, theirs must not fill what decoding needs.
        decoders = sum(max(1, int(node.cpus)) for node in nodes)
        decode_cpus = 0.2 * min(1.0, *(node.cpus for node in nodes))
        return Resources(decoders, decode_cpus, len(nodes), 0.1, 0.0, len(nodes), 0.05, 0.0)
    # Actors hold their shares for the whole run: on few CPUs they leave half to decoding and the light stages.
    actor_cpus = min(0.5, *(0.25 * node.cpus / int(node.gpus) for node in nodes if node.gpus >= 1))
    # A task needs its CPU on one node: what is left here and there does not add up.
    left = [node.cpus - 2 * int(node.gpus) * actor_cpus - _LIGHT_STAGES_CPUS for node in nodes]
    decode_cpus = max(0.01, min(1.0, max(left)))
    decoders = max(1, sum(max(0, int(cpus / decode_cpus)) for cpus in left))
    # More than half of a GPU: two encoders never share one, so there is a place for each.
    return Resources(decoders, decode_cpus, gpus, actor_cpus, 0.6, gpus, actor_cpus, 0.4)


@contextmanager
def connected(*, verbose: bool = False, wanted: Sequence[tuple[str, float]] = ()) -> Iterator[Resources]:
    """Connect to a cluster for the time of a run and yield what to use of it, with what is ``wanted`` put in place.

    A process that is connected already stays so, before and after. Otherwise ``RAY_ADDRESS`` or the cluster that
    ``ray start`` made on this machine is used, and if there is none one is started and stopped again.
    ``verbose`` lets Ray's own messages through.
    """
    with _quiet_ray(verbose=verbose):
        if ray.is_initialized():
            yield _of_cluster(wanted)
            return
        with _hushed(hush=not verbose), _own_sigterm():
            _start(verbose=verbose)
        try:
            yield _of_cluster(wanted)
        finally:
            ray.shutdown()


def _start(*, verbose: bool) -> None:
    options: dict[str, Any] = {}
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        options = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    _check_reachable(os.environ.get("RAY_ADDRESS", ""))
    # Without an address, Ray takes RAY_ADDRESS or the cluster that `ray start` made on this machine, and not one
    # that some other program keeps for itself; then it refuses the options of a cluster that it is to start.
    try:
        try:
            ray.init(
                include_dashboard=False,
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                _system_config=_KEPT_WORKERS,
                **options,
            )
        except ValueError:
            ray.init(**options)
    except Exception as error:
        # All of them: when a machine is too busy to start in time, Ray raises the bare class.
        address = os.environ.get("RAY_ADDRESS")
        place = f"to the Ray cluster at RAY_ADDRESS={address}" if address else "to or start a Ray cluster"
        reason = " ".join(str(error.__cause__ or error).split())
        raise WorkerError(f"cannot connect {place}: {reason[-600:]}") from error


def _check_reachable(address: str) -> None:
    """Raise WorkerError if nothing listens at ``HOST:PORT``: Ray itself would try for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise WorkerError(f"there is no Ray cluster at RAY_ADDRESS={address}: {error}") from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put back what the program does on SIGTERM: connecting to Ray replaces it by leaving at once."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet_ray(*, verbose: bool) -> Iterator[None]:
    """Keep Ray Data's log lines and warnings off the terminal for a while; they stay in Ray's log files."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    with warnings.catch_warnings():
        # Starting a process after Lance was loaded: Ray's are new programs, so nothing of Lance is used there.
        warnings.filterwarnings("ignore", message=r".*lance is not fork-safe")
        warnings.filterwarnings("ignore", message=r".*lancedb fork support")
        if not verbose:
            warnings.filterwarnings("ignore", message=r"The maximum number of concurrent tasks")
            # A cluster has more workers than a short run has segments.
            warnings.filterwarnings("ignore", message=r"The minimum number of concurrent actors")
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


@contextmanager
def _hushed(*, hush: bool) -> Iterator[None]:
    """Hold back what Ray's C++ core writes to standard error while it starts; an error lets it out."""
    if not hush:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except MalmmError:
            raise
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _of_cluster(wanted: Sequence[tuple[str, float]]) -> Resources:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    chosen = choose_resources([Node(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in alive])
    changes: dict[str, Any] = {
        name: int(value) if name.endswith("_workers") else value for name, value in wanted
    }
    return replace(chosen, **changes)
