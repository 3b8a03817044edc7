"""A small Ray in the process of the tests, for all that a file's tests do on workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import ray

from support.lean_ray import lean

__all__ = ["small_ray"]


@contextmanager
def small_ray(environment: Mapping[str, str]) -> Iterator[None]:
    """Start Ray with two CPUs for the time of a block. The environment is its workers', and not this process's."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch, lean():
        for name, value in environment.items():
            patch.setenv(name, value)
        # Ray starts new programs; nothing of Lance is used between fork and exec.
        warnings.filterwarnings("ignore", message=r".*(lance is not fork-safe|lancedb fork support)")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=300_000_000,
            log_to_driver=False,
            # As in a cluster that a run starts itself: workers that rest for a second are kept.
            _system_config={"num_workers_soft_limit": 10},
        )
    try:
        yield
    finally:
        ray.shutdown()
