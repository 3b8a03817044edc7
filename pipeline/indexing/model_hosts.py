"""The actors that hold the models of a run: started by the work there is, kept to its end, replaced when they die.

They are the run's own and not Ray Data's: indexing, retries and prompts for whole videos use the same ones, so each
loads its models once, and none is taken away while decoding falls behind.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from malmm.operators.decode import decode_segments
from malmm.operators.listen import listen_to_spans
from malmm.operators.model_host import ModelHost, ModelStep
from malmm.pipeline.cluster.placement import alive_nodes, lost_nodes, node_ids, on_nodes_with
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing.block_stream import worker_error
from malmm.pipeline.indexing.host_desk import BATCHES_A_HOST, RemoteHostDesk
from malmm.pipeline.indexing.run_actor import RunActor
from malmm.pipeline.indexing.stage_sizes import StageSizes
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.rows import carried, rows_table

__all__ = ["NODES_EVERY_S", "HostGroup", "ModelHosts", "Route", "Stop", "groups_of", "through_hosts"]

# Calls that a host answers at once: its batches, and the driver's.
_CALLS_A_HOST = BATCHES_A_HOST + 3
_LOOK_EVERY_S = 0.5
#: Seconds between two looks for nodes that have joined or left the cluster.
NODES_EVERY_S = 5.0
_MOST_DEATHS_AT_LOADING = 3
_WORKER_LOST = "the worker that held it died: run again to retry, with -v to see why"
_Blocks = Iterator[pa.Table | None]


@dataclass(frozen=True)
class HostGroup:
    """Hosts that are alike: the position of their steps, how many there may be, and what each reserves."""

    name: str
    steps: slice
    most: int
    cpus: float
    gpus: float
    memory_bytes: int

    def is_like(self, other: HostGroup) -> bool:
        """Whether both are the same models, on GPUs or on CPUs."""
        return self.name == other.name and bool(self.gpus) == bool(other.gpus)


def groups_of(resources: Resources) -> tuple[HostGroup, ...]:
    """One group with both models where they share an actor, else a group for each."""
    if resources.one_actor:
        return (
            HostGroup(
                "models",
                slice(0, 2),
                resources.encode_workers,
                resources.actor_cpus,
                resources.actor_gpus,
                resources.actor_memory_bytes,
            ),
        )
    return (
        HostGroup(
            "encode",
            slice(0, 1),
            resources.encode_workers,
            resources.encode_cpus,
            resources.encode_gpus,
            resources.actor_memory_bytes,
        ),
        HostGroup(
            "generate",
            slice(1, 2),
            resources.generate_workers,
            resources.generate_cpus,
            resources.generate_gpus,
            resources.actor_memory_bytes,
        ),
    )


@dataclass(frozen=True)
class Stop:
    """What a batch is sent through in one group of hosts: ``steps`` is a reference to the ``ModelStep``s there.

    ``stage`` names the first of them, and ``schema`` is that of the last one's output.
    """

    group: str
    steps: Any
    stage: str
    schema: pa.Schema


@dataclass(frozen=True)
class Route:
    """How a batch goes through the models of a run: from stop to stop."""

    desk: RemoteHostDesk
    stops: tuple[Stop, ...]


def through_hosts(rows: pa.Table, *, route: Route) -> pa.Table:
    """Send a batch through the models of a run. Runs in a task.

    When a host dies, what it had goes to another one, each batch alone: it may have died of another batch, or with its
    node. With the batch that a second host dies of, it is done row by row. A row alone of which a host dies fails.
    """
    for stop in route.stops:
        made = _sent(rows, route.desk, stop)
        rows = made if made is not None else _sent_alone(rows, route.desk, stop)
    return rows


def _sent_alone(rows: pa.Table, desk: RemoteHostDesk, stop: Stop) -> pa.Table:
    made = _sent(rows, desk, stop, alone=True)
    if made is not None:
        return made
    if rows.num_rows > 1:
        parts = [rows.slice(index, 1) for index in range(rows.num_rows)]
        return pa.concat_tables([_sent_alone(part, desk, stop) for part in parts])
    failed = [each.failed(stop.stage, "worker_lost", _WORKER_LOST).columns() for each in carried(rows)]
    return rows_table(failed, stop.schema)


def _sent(rows: pa.Table, desk: RemoteHostDesk, stop: Stop, *, alone: bool = False) -> pa.Table | None:
    """What a host makes of the rows; None if it dies meanwhile."""
    with desk.taken(stop.group, alone=alone) as (key, host):
        try:
            made: pa.Table = ray.get(host.call.remote(stop.steps, rows))
        except (RayActorError, OutOfMemoryError):
            desk.remove(key)
            return None
    return made


@dataclass
class _Host:
    """A host as the driver knows it.

    ``calls`` are those of its own that are not answered, ``lost_nodes`` is how many nodes the cluster had lost when it
    was started, and ``joined_s`` the time when it had loaded its models.
    """

    group: HostGroup
    actor: Any
    calls: list[Any]
    lost_nodes: int
    joined_s: float | None = None

    @property
    def has_joined(self) -> bool:
        """Whether it has loaded its models."""
        return self.joined_s is not None

    def seconds_with(self, step: int) -> float:
        """Seconds for which it has had the model of a step, up to now: 0 for the first, 1 for the second."""
        if self.joined_s is None or not self.group.steps.start <= step < self.group.steps.stop:
            return 0.0
        return time.monotonic() - self.joined_s


def _larger(group: HostGroup, planned: HostGroup) -> HostGroup:
    """What is planned now, with no fewer hosts than before; the group as it is if its GPUs are gone."""
    if group.is_like(planned):
        return replace(planned, most=max(group.most, planned.most))
    return planned if planned.gpus else group


class ModelHosts:
    """The hosts of a run, on the driver's side. A context manager that ends them all.

    The first work starts as many as it has use for, and ``want`` more; ``watched`` replaces those that die. With the
    run's ``plan`` it also uses nodes that come later: ``sizes`` are then what stages that run may grow to.
    ``run_actor`` holds what the tasks of the run ask, and ends with the hosts.
    """

    def __init__(self, resources: Resources, plan: ClusterPlan | None = None) -> None:
        self._plan = plan
        self._labels = plan.use.labels if plan is not None else ()
        self._groups = groups_of(resources)
        self.sizes = StageSizes()
        self.run_actor = RunActor()
        self._saw_nodes_s = time.monotonic()
        self._lost_nodes = 0
        self._desk: RemoteHostDesk | None = None
        self._hosts: dict[str, _Host] = {}
        self._steps: dict[str, Any] = {}
        self._wanted = 0
        self._numbers = itertools.count(1)
        self._deaths = 0
        self._looked_s = 0.0
        self._seconds_of_dead = [0.0, 0.0]
        self._began_s: float | None = None
        self._loaded_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts.values():
            ray.kill(host.actor)
        self._hosts.clear()
        self.run_actor.end()
        self._desk = None

    @property
    def encoders(self) -> int:
        """Encoders that the run may have at once, by the nodes that it has seen."""
        return self._groups[0].most

    @property
    def gpus(self) -> float:
        """GPUs that all hosts may have at once, by the nodes that it has seen."""
        return sum(group.most * group.gpus for group in self._groups)

    @property
    def encoder_s(self) -> float:
        """Seconds of all hosts with an encoder, from when each had loaded it to its end, or up to now."""
        return self._seconds_with(0)

    @property
    def generator_s(self) -> float:
        """Seconds of all hosts with a generator, counted as ``encoder_s`` is."""
        return self._seconds_with(1)

    def _seconds_with(self, step: int) -> float:
        return self._seconds_of_dead[step] + sum(host.seconds_with(step) for host in self._hosts.values())

    @property
    def loading(self) -> int:
        """Hosts that have been started and have not loaded their models yet."""
        return sum(not host.has_joined for host in self._hosts.values())

    @property
    def loaded_s(self) -> float | None:
        """Seconds from the start of the first host until every group had one that could begin; None before."""
        return self._loaded_s

    @property
    def batches(self) -> int:
        """Batches that all hosts have at a time."""
        return BATCHES_A_HOST * max(group.most for group in self._groups)

    def route(self, steps: Sequence[ModelStep], *, expected: int) -> Route:
        """The way of a batch through these steps, two or one.

        Starts hosts for ``expected`` batches, if there are too few. Hosts that are there load what they lack.
        """
        if self._desk is None:
            self._desk = RemoteHostDesk(self.run_actor)
        stops = []
        for group in self._groups:
            own = tuple(steps[group.steps])
            self._steps[group.name] = reference = ray.put(own)
            stops.append(Stop(group.name, reference, own[0].stage, own[-1].schema))
        for host in self._hosts.values():
            host.calls.append(host.actor.load.remote(self._steps[host.group.name]))
        self.want(expected)
        return Route(self._desk, tuple(stops))

    def want(self, batches: int) -> None:
        """Have a host for each of so many batches, as far as there may be so many. Hosts are never ended early."""
        self._wanted = max(self._wanted, batches, 1)
        for group in self._groups:
            there = sum(host.group.is_like(group) for host in self._hosts.values())
            for _ in range(min(group.most, self._wanted) - there):
                self._start(group)

    def watched(self, blocks: _Blocks) -> _Blocks:
        """Yield the blocks, and look after the hosts meanwhile.

        Raises WorkerError if a model cannot be loaded, or hosts die again and again before they have loaded it, and
        RunLost if the actor is gone that the run's tasks ask.
        """
        try:
            for block in blocks:
                if time.monotonic() - self._looked_s >= _LOOK_EVERY_S:
                    self.run_actor.check()
                    self._look()
                    self._looked_s = time.monotonic()
                if time.monotonic() - self._saw_nodes_s >= NODES_EVERY_S:
                    self._see_nodes()
                    self._saw_nodes_s = time.monotonic()
                yield block
        finally:
            # An exception keeps this frame, and with it a dataset that would still run when Ray is shut down.
            if isinstance(blocks, Generator):
                blocks.close()
        # Without it all that was left was lost, however fast.
        self.run_actor.check()

    def _see_nodes(self) -> None:
        """Take note of nodes that have joined or left."""
        lost = lost_nodes()
        if lost != self._lost_nodes and self._desk is not None:
            self._lost_nodes = lost
            self._desk.keep_nodes(node_ids())
        if self._plan is not None:
            self._grow(self._plan)

    def _grow(self, plan: ClusterPlan) -> None:
        """Have as many hosts and tasks as the nodes that are there now have room for, and never fewer than before.

        A node that was lost stays counted: what waits for its place has the autoscaler replace it. Hosts on CPUs stay
        when the first GPUs come, beside those that are started there.
        """
        nodes = alive_nodes(plan.use.labels)
        try:
            resources = plan.resources(nodes)
        except ConfigError:
            # None of those that are left can hold the model: others may come.
            return
        planned = {group.name: group for group in groups_of(resources)}
        if planned.keys() != {group.name for group in self._groups}:
            return
        self._groups = tuple(_larger(group, planned[group.name]) for group in self._groups)
        self._reshape()
        self.sizes.grow(through_hosts.__name__, self.batches)
        for decoding in (decode_segments, listen_to_spans):
            self.sizes.grow(decoding.__name__, resources.decode_workers)
        if plan.use.share < 1:
            self.sizes.cpus = plan.use.share * sum(node.cpus for node in nodes)
        self.want(0)

    def _reshape(self) -> None:
        """End hosts that wait for a place, or load, and reserve more than a host does now: they may find no place."""
        for key, host in list(self._hosts.items()):
            now = next((group for group in self._groups if group.is_like(host.group)), host.group)
            larger = host.group.cpus > now.cpus or host.group.memory_bytes > now.memory_bytes
            if larger and not host.has_joined:
                ray.kill(host.actor)
                del self._hosts[key]

    def _bury(self, host: _Host) -> None:
        for step in range(len(self._seconds_of_dead)):
            self._seconds_of_dead[step] += host.seconds_with(step)

    def _start(self, group: HostGroup) -> None:
        options: dict[str, Any] = {
            "num_cpus": group.cpus,
            "num_gpus": group.gpus,
            "memory": group.memory_bytes,
            "max_concurrency": _CALLS_A_HOST,
            "max_restarts": 0,
        }
        if not group.gpus:
            # One a machine: each uses all cores.
            options["scheduling_strategy"] = "SPREAD"
        options |= on_nodes_with(self._labels)
        if self._began_s is None:
            self._began_s = time.monotonic()
        actor: Any = ray.remote(**options)(ModelHost).remote()
        loading = actor.load.remote(self._steps[group.name])
        self._hosts[f"{group.name}-{next(self._numbers)}"] = _Host(group, actor, [loading], lost_nodes())

    def _note_loaded(self) -> None:
        ready = {host.group.name for host in self._hosts.values() if host.has_joined}
        if self._loaded_s is None and self._began_s is not None and len(ready) == len(self._groups):
            self._loaded_s = time.monotonic() - self._began_s

    def _look(self) -> None:
        calls = {call: key for key, host in self._hosts.items() for call in host.calls}
        if not calls or self._desk is None:
            return
        answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in answered:
            key = calls[call]
            host = self._hosts.get(key)
            if host is None:
                continue
            host.calls.remove(call)
            try:
                ray.get(call)
            except (RayActorError, OutOfMemoryError) as error:
                self._desk.remove(key)
                self._bury(self._hosts.pop(key))
                # One that went away with its node says nothing of the model.
                self._deaths += not host.has_joined and lost_nodes() == host.lost_nodes
                if self._deaths >= _MOST_DEATHS_AT_LOADING:
                    raise worker_error(error) from error
            except RayError as error:
                raise worker_error(error) from error
            else:
                if not host.has_joined:
                    host.joined_s, self._deaths = time.monotonic(), 0
                    self._desk.add(key, host.group.name, host.actor)
                    host.calls.append(host.actor.stay.remote())
                    self._note_loaded()
        self.want(0)
