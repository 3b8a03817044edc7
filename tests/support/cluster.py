"""A Ray cluster of several nodes on this machine, whose workers and nodes tests may kill.

The nodes are started by this file run as a program, in a session of its own: nothing of Ray happens in the process
of the tests, and whatever the cluster leaves behind can be found and ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.waiting import until

__all__ = ["Cluster", "running"]

# Ray asks a node five times in 15 s before it takes it for dead; here a node that is gone is missed in 5 s.
_SYSTEM = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
    # As a local cluster of ours has it: starting a worker anew costs seconds.
    "num_workers_soft_limit": 10,
}
_STORE_BYTES = 200_000_000


class Cluster:
    """``environment`` is what a process needs to use it. Nodes are told apart by their raylet's process id.

    The head has no CPUs, as that of a large cluster, and holds the drivers.
    """

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self.process, self.environment = process, environment
        self.head = 0
        self.nodes: list[int] = []

    def worker(self, title: str) -> int:
        """A process that runs a task, or holds an actor, with ``title`` in its name, once there is one."""

        def found() -> int:
            nodes = (self.head, *self.nodes)
            children = [child for child, parent in _parents().items() if parent in nodes]
            return next((pid for pid in children if title in _read(pid, "cmdline")), 0)

        return until(found)

    def node_of(self, worker: int) -> int:
        """The node that started a worker."""
        return _parents()[worker]

    def kill_node(self, node: int) -> None:
        """Kill all that runs on a node, as when the machine is switched off."""
        parents = _parents()
        doomed = [node]
        for pid in doomed:
            doomed += [child for child, parent in parents.items() if parent == pid]
        # Stopped first: none of them gets to see the others die.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in doomed:
                _send(pid, number)
        self.nodes.remove(node)

    def end(self) -> None:
        """Kill all of it."""

        def gone() -> bool:
            left = self._members()
            for pid in left:
                _send(pid, signal.SIGKILL)
            self.process.poll()
            return not left

        until(gone)
        self.process.wait()

    def _members(self) -> list[int]:
        """The processes of the cluster's session that are still there, zombies left out."""
        found = []
        for pid in _parents():
            stat = _read(pid, "stat").rpartition(")")[2].split()
            if stat and stat[0] != "Z" and int(stat[3]) == self.process.pid:
                found.append(pid)
        return found


@contextmanager
def running(*, nodes: int, cpus: int) -> Iterator[Cluster]:
    """A cluster of a head and so many nodes with so many CPUs each."""
    # A folder of its own keeps others from taking this for the machine's cluster; the paths of sockets in it must
    # be short, which pytest's are not.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    environment = {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    errors = folder / "errors.txt"
    with errors.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.cluster", str(nodes), str(cpus)],
            cwd=Path(__file__).parents[1],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
            start_new_session=True,
        )
    cluster = Cluster(process, environment)
    assert process.stdout is not None
    try:
        answer = process.stdout.readline()
        assert answer, errors.read_text()
        told: dict[str, Any] = json.loads(answer)
        cluster.head, cluster.nodes = told["head"], told["nodes"]
        cluster.environment["RAY_ADDRESS"] = told["address"]
        yield cluster
    finally:
        cluster.end()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def _parents() -> dict[int, int]:
    """Every process's parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat")):
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def _read(pid: int, name: str) -> str:
    """What the kernel says of a process, or nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _serve(nodes: int, cpus: int) -> None:
    """Start the nodes, say where they are, and wait for the end: they do not outlive this process."""
    # Not in the process of the tests.
    import ray.cluster_utils

    from support.lean_ray import lean

    head = {
        "num_cpus": 0,
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
        "_system_config": _SYSTEM,
    }
    with lean():
        cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        started = [cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES) for _ in range(nodes)]
    head_raylet, *raylets = [
        node.all_processes["raylet"][0].process.pid for node in (cluster.head_node, *started)
    ]
    print(json.dumps({"address": cluster.address, "head": head_raylet, "nodes": raylets}), flush=True)
    signal.pause()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
