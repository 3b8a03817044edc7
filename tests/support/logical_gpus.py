"""A Ray with GPUs, which a machine without any may claim to have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

__all__ = ["ray_with_two_gpus"]


@contextmanager
def ray_with_two_gpus() -> Iterator[None]:
    """Start Ray with four CPUs and two logical GPUs for the time of a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Idle workers are kept: starting one anew costs seconds.
            _system_config={"num_workers_soft_limit": 10},
        )
        try:
            yield
        finally:
            ray.shutdown()
