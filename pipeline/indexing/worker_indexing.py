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
from malmm.pipeline.schema.errors import WorkerError

__all__ = ["build_on_cluster", "build_on_workers"]


def build_on_workers(
    archive_uri: str, version: int, groups: Sequence[Sequence[int]], centroids: pa.Array
) -> list[Index]:
    """A ``BuildPieces`` of a process that is connected to Ray. Raises WorkerError where a piece cannot be built."""
    remote = ray.remote(num_cpus=1, max_retries=2)(_build)
    stored = ray.put(centroids)
    try:
        return list(ray.get([remote.remote(archive_uri, version, list(group), stored) for group in groups]))
    except RayError as error:
        reason = " ".join(str(error).split())[-400:]
        raise WorkerError(f"cannot index the vectors of {archive_uri} on the cluster: {reason}") from error


def build_on_cluster(
    archive_uri: str, version: int, groups: Sequence[Sequence[int]], centroids: pa.Array
) -> list[Index]:
    """A ``BuildPieces`` that connects to Ray first, for the time of building. Raises WorkerError."""
    with connection():
        return build_on_workers(archive_uri, version, groups, centroids)


def _build(archive_uri: str, version: int, fragments: list[int], centroids: pa.Array) -> Index:
    dataset = open_dataset(archive_uri, "memories")
    if dataset is None:
        raise FileNotFoundError(f"{archive_uri} has no table 'memories'")
    return build_piece(dataset.checkout_version(version), fragments, centroids)
