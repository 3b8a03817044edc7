"""Check that workers can compile, before a run starts.

An encoder that cannot compile would end the run too, but only after other workers have begun to decode.
"""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from malmm.pipeline.cluster.placement import Labels, on_nodes_with
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.schema.errors import WorkerError

__all__ = ["check_compilers"]


def check_compilers(resources: Resources, labels: Labels = ()) -> None:
    """Compile something small in as many tasks as there will be encoders. Raises WorkerError with the first reason.

    The tasks are spread over the nodes with these ``labels``, and reserve what an encoder reserves. Ray may still start
    an encoder on a machine that was not checked; then that encoder raises the error.
    """
    remote = ray.remote(
        num_cpus=resources.encode_cpus,
        num_gpus=resources.encode_gpus,
        scheduling_strategy="SPREAD",
        max_retries=1,
        **on_nodes_with(labels),
    )(_problem)
    try:
        problems = ray.get([remote.remote() for _ in range(resources.encode_workers)])
    except RayError as error:
        raise WorkerError(
            f"a worker that was to try its compiler died: {' '.join(str(error).split())}"
        ) from error
    for problem in problems:
        if problem is not None:
            raise WorkerError(problem)


def _problem() -> str | None:
    # Torch is for workers: the driver does without.
    from malmm.model.families.instructblip.compiled_vision import try_compiler
    from malmm.operators.device import choose_device

    return try_compiler(choose_device())
