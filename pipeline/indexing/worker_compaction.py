"""Compaction on the cluster: the driver plans and commits, workers rewrite. No large row passes through the driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import ray
from lance.optimize import CompactionTask, RewriteResult
from ray.exceptions import RayError

from malmm.pipeline.archive.compaction import Rewrite
from malmm.pipeline.archive.location import open_dataset
from malmm.pipeline.cluster.placement import Labels, on_nodes_with
from malmm.pipeline.cluster.starvation import wait_for_worker
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["rewriting_on_workers"]

# Rewriting waits for the disk or the network more than it computes.
_CPUS = 0.2
_AT_ONCE = 8


def rewriting_on_workers(
    archive_uri: str, table: str, *, labels: Labels = (), tell: OnProgress = lambda progress: None
) -> Rewrite:
    """Return a function that rewrites a table's files on the cluster's workers. Skips the files of failed tasks.

    The tasks run on nodes with these ``labels``. The function reports through ``tell`` what it waits for while the
    cluster has no room.
    """

    def rewrite(tasks: Sequence[CompactionTask]) -> Iterator[RewriteResult]:
        with suppress(RayError):
            wait_for_worker(
                ("merging of files", _CPUS, 0.0),
                lambda note: tell(Progress("tidying", note=note)),
                labels,
            )
        remote = ray.remote(num_cpus=_CPUS, max_retries=1, **on_nodes_with(labels))(_rewrite)
        for begin in range(0, len(tasks), _AT_ONCE):
            running = [
                remote.remote(archive_uri, table, task.json()) for task in tasks[begin : begin + _AT_ONCE]
            ]
            for reference in running:
                try:
                    yield ray.get(reference)
                except RayError:
                    continue

    return rewrite


def _rewrite(archive_uri: str, table: str, task: str) -> RewriteResult:
    planned = CompactionTask.from_json(task)
    dataset = open_dataset(archive_uri, table)
    if dataset is None:
        raise FileNotFoundError(f"{archive_uri} has no table {table!r}")
    return planned.execute(dataset.checkout_version(planned.read_version))
