"""The index of very many vectors, built on the cluster: each worker indexes some of the files by common centroids."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import ray
from lance.dataset import Index
from ray.exceptions import RayError

from malmm.pipeline.archive.location import open_dataset
from malmm.pipeline.archive.vector_index import build_piece
from malmm.pipeline.cluster.connection import connection
from malmm.pipeline.cluster.placement import Labels, on_nodes_with
from malmm.pipeline.cluster.starvation import wait_for_worker
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["build_on_cluster", "build_on_workers"]

_CPUS = 1.0


def build_on_workers(
    archive_uri: str,
    version: int,
    groups: Sequence[Sequence[int]],
    centroids: pa.Array,
    *,
    labels: Labels = (),
    tell: OnProgress = lambda progress: None,
) -> list[Index]:
    """A ``BuildPieces`` of a process that is connected to Ray.

    The pieces are built on nodes with these ``labels``. Reports through ``tell`` what it waits for while the cluster
    has no room. Raises WorkerError if a piece cannot be built.
    """
    remote = ray.remote(num_cpus=_CPUS, max_retries=2, **on_nodes_with(labels))(_build)
    stored = ray.put(centroids)
    try:
        want = ("indexing of vectors", _CPUS, 0.0)
        wait_for_worker(want, lambda note: tell(Progress("building indexes", note=note)), labels)
        return list(ray.get([remote.remote(archive_uri, version, list(group), stored) for group in groups]))
    except RayError as error:
        reason = " ".join(str(error).split())[-400:]
        raise WorkerError(f"cannot index the vectors of {archive_uri} on the cluster: {reason}") from error


def build_on_cluster(
    archive_uri: str,
    version: int,
    groups: Sequence[Sequence[int]],
    centroids: pa.Array,
    *,
    tell: OnProgress = lambda progress: None,
) -> list[Index]:
    """``build_on_workers`` that connects to Ray first, for the time of building. Raises WorkerError."""
    with connection(tell=tell):
        return build_on_workers(archive_uri, version, groups, centroids, tell=tell)


def _build(archive_uri: str, version: int, fragments: list[int], centroids: pa.Array) -> Index:
    dataset = open_dataset(archive_uri, "memories")
    if dataset is None:
        raise FileNotFoundError(f"{archive_uri} has no table 'memories'")
    return build_piece(dataset.checkout_version(version), fragments, centroids)
