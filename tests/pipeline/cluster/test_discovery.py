"""A head that was killed leaves its address behind; a run says so and starts a cluster of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from malmm.pipeline.cluster.discovery import listens, recorded_head


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for Ray, with the short path that its sockets need."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as made:
        (Path(made) / "ray").mkdir()
        yield Path(made)


def record(folder: Path, content: bytes) -> dict[str, str]:
    (folder / "ray" / "ray_current_cluster").write_bytes(content)
    return {"TMPDIR": str(folder)}


def test_without_a_record_there_is_no_head(folder: Path) -> None:
    assert recorded_head({"TMPDIR": str(folder)}) is None


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"127.0.0.1:", b":6379", b"127.0.0.1:99999", b"\xff\x00:1"]
)
def test_a_record_that_names_no_place_is_of_a_dead_head(folder: Path, content: bytes) -> None:
    head = recorded_head(record(folder, content))
    assert head is not None
    assert not head.alive
    assert str(folder / "ray" / "ray_current_cluster") in head.note


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_head_is_alive_while_something_listens_there(folder: Path, family: socket.AddressFamily) -> None:
    with socket.socket(family) as server:
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        host, port = server.getsockname()[:2]
        address = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        environment = record(folder, f"{address}\n".encode())
        server.listen()
        head = recorded_head(environment)
        assert head is not None
        assert (head.address, head.alive, head.note) == (address, True, "")
    # Closed by now, and the port is the test's own: nobody else listens on it in an instant.
    assert listens(address, within_s=5) is not None


HEAD = """
import signal
from ray.cluster_utils import Cluster
import ray._private.utils
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray._private.utils.write_ray_address(cluster.address)
started = [each for kind in cluster.head_node.all_processes.values() for each in kind]
print(cluster.address, *(each.process.pid for each in started), flush=True)
signal.pause()
"""
RUN = """
import json
import ray
from malmm.pipeline.cluster.connection import connection
notes = []
with connection(tell=lambda progress: notes.append(progress.note)):
    print(json.dumps([notes, ray.get_runtime_context().gcs_address]))
"""


def test_a_run_after_a_killed_head_starts_a_cluster_of_its_own(folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["TMPDIR"] = str(folder)
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert head.stdout is not None
    try:
        address, *pids = head.stdout.readline().split()
    finally:
        # All of it at once, as when the machine's memory ran out.
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        head.stdout.close()
    for pid in map(int, pids):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert (folder / "ray" / "ray_current_cluster").read_text() == address
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [note], own = json.loads(done.stdout.splitlines()[-1])
    assert own != address
    assert note.startswith(f"no Ray head listens at {address}, which {folder}/ray/ray_current_cluster names")
