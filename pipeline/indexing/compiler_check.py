"""Whether workers can compile, asked before there is anything to lose.

An encoder that cannot start ends the run all the same, but while it starts others decode already.
"""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from malmm.model.families.instructblip.compiled_vision import try_compiler
from malmm.operators.device import choose_device
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.schema.errors import WorkerError

__all__ = ["check_compilers"]


def check_compilers(resources: Resources) -> None:
    """Have as many workers as there will be encoders compile something small. Raises WorkerError with the first's why.

    They are spread over the cluster, and have what an encoder has. Ray may still start an encoder on a machine that
    was not asked; then the encoder says it.
    """
    remote = ray.remote(
        num_cpus=resources.encode_cpus,
        num_gpus=resources.encode_gpus,
        scheduling_strategy="SPREAD",
        max_retries=1,
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
    return try_compiler(choose_device())
