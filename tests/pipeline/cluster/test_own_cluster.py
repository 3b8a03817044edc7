"""What is true of the cluster that a run starts for itself, beside the record of a head that was killed."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray._private.utils import write_ray_address
from support.lean_ray import lean
from support.waiting import until

from malmm.pipeline.cluster import connection as cluster

CPUS = os.cpu_count() or 1
KEPT = CPUS + 2


@dataclass(frozen=True)
class Started:
    """The cluster's address, that of the head which was there before, the file that names it, and what was said."""

    address: str
    before: str
    record: Path
    notes: list[str]


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    notes: list[str] = []
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as folder,
        socket.socket() as gone,
    ):
        # Bound and not listening: nobody answers there, and nobody else may begin to.
        gone.bind(("127.0.0.1", 0))
        before = f"127.0.0.1:{gone.getsockname()[1]}"
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("RAY_TMPDIR", raising=False)
        patch.setenv("TMPDIR", folder)
        record = Path(folder) / "ray" / "ray_current_cluster"
        record.parent.mkdir()
        write_ray_address(before, str(record.parent))
        assert record.read_text() == before
        assert cluster._KEPT_WORKERS["num_workers_soft_limit"] > KEPT
        patch.setattr(cluster, "_KEPT_WORKERS", {"num_workers_soft_limit": KEPT})
        with lean(), cluster.connected(tell=lambda progress: notes.append(progress.note)):
            yield Started(ray.get_runtime_context().gcs_address, before, record, notes)


def test_a_run_after_a_killed_head_starts_a_cluster_of_its_own(started: Started) -> None:
    assert started.address != started.before
    assert started.notes[0].startswith(
        f"no Ray head listens at {started.before}, which {started.record} names"
    )


def test_workers_of_light_tasks_are_kept_between_them(started: Started, tmp_path: Path) -> None:
    """Of idle workers Ray ends those beyond the limit that a run sets. By itself it keeps one a CPU."""

    def at_once(count: int) -> set[int]:
        """The workers of so many tasks that run at the same time."""
        folder = tmp_path / str(count)
        folder.mkdir()

        @ray.remote(num_cpus=0.01)
        def pid() -> int:
            (folder / str(os.getpid())).touch()
            while len(list(folder.iterdir())) < count:
                time.sleep(0.1)
            return os.getpid()

        return set(ray.get([pid.remote() for _ in range(count)]))

    begun = at_once(KEPT + 1)
    assert len(begun) == KEPT + 1
    until(lambda: any(not Path(f"/proc/{each}").exists() for each in begun))
    assert len(at_once(KEPT) & begun) > CPUS
