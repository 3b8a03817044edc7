"""A Ray with GPUs, which a machine without any may claim to have; one of them with nodes that come and go."""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray
from ray._private.authentication import authentication_token_setup as tokens
from ray.cluster_utils import Cluster

from support.lean_ray import lean

__all__ = ["cluster_with_two_gpus", "ray_with_two_gpus"]

# Idle workers are kept: starting one anew costs seconds.
_KEPT = {"num_workers_soft_limit": 10}
_STORE_BYTES = 100_000_000


@contextmanager
def ray_with_two_gpus() -> Iterator[None]:
    """Start Ray with four CPUs and two logical GPUs for the time of a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with lean():
            ray.init(
                address="local",
                num_cpus=4,
                num_gpus=2,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _system_config=_KEPT,
            )
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def cluster_with_two_gpus() -> Iterator[Cluster]:
    """Start a cluster whose head has four CPUs and two logical GPUs, for the time of a block. Nodes may be added.

    Its folder is its own: the head writes its address down, where no other run should find it.
    """
    handler = signal.getsignal(signal.SIGTERM)
    # The paths of sockets in it must be short.
    with (
        tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
        lean(),
    ):
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_TMPDIR", folder)
        # As a cluster that ray.init starts. Once Ray has wanted a token in a process, it wants one of every later
        # cluster too, whatever the environment says: nodes without one could not answer.
        patch.setenv("RAY_AUTH_MODE", "token")
        tokens._enable_token_auth()
        tokens.ensure_token_if_auth_enabled()
        head = {"num_cpus": 4, "num_gpus": 2, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
        cluster = Cluster(initialize_head=True, head_node_args=head | {"_system_config": _KEPT})
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
            signal.signal(signal.SIGTERM, handler)
