"""Fine-tuning on a Ray cluster: Ray Train's workers, each of which samples its frames by Ray Data.

Every worker has a dataset of its own with the rows of its part, in their order, and not a shard of one dataset: which
worker gets which row of a shard depends on blocks and on time, and a restarted worker would begin again with the first
row. Snapshots are this package's: Ray counts a checkpoint only seconds after it was reported.
"""

from __future__ import annotations

import copy
import re
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from malmm.pipeline.cluster.connection import connection
from malmm.pipeline.finetuning.feed import Sampled, sampler
from malmm.pipeline.finetuning.work import Job, work
from malmm.pipeline.schema.errors import ConfigError, WorkerError

__all__ = ["fit_on_ray", "sampled_on_ray"]

_POLLED_EVERY_S = 1.0
_ROWS_A_BLOCK = 4
# Clips of one dataset: Ray plans its blocks before the first is there.
_ROWS_A_DATASET = 2048
_RESTARTS = 2


def fit_on_ray(job: Job, poll: Callable[[], None]) -> None:
    """Train on a cluster, and call ``poll`` about every second meanwhile. A worker that dies is started again.

    Raises WorkerError with the worker's reason, and ConfigError for more workers than the cluster has room for.
    """
    config = job.config
    with connection(verbose=config.verbose), tempfile.TemporaryDirectory() as storage:
        has = ray.cluster_resources()
        gpus, cpus = has.get("GPU", 0), has.get("CPU", 1)
        if 0 < gpus < config.workers:
            raise ConfigError(f"--workers {config.workers}: the cluster has {gpus:g} GPUs")
        # One is for decoding.
        decoding = 1.0 if cpus >= 2 else 0.5
        each = min(1.0, (cpus - decoding) / config.workers)
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "decode_cpus": decoding},
            scaling_config=ScalingConfig(
                num_workers=config.workers, use_gpu=gpus > 0, resources_per_worker=_reserved(each, gpus > 0)
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(
                # Ray goes on with any run whose name it knows.
                name=f"finetune-{uuid.uuid4().hex[:12]}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=_RESTARTS),
            ),
        )
        _wait(trainer, poll)


def _reserved(cpus: float, has_gpu: bool) -> dict[str, float]:
    return {"CPU": round(cpus, 2)} | ({"GPU": 1.0} if has_gpu else {})


def _wait(trainer: Any, poll: Callable[[], None]) -> None:
    """Fit in a thread, so that Ctrl-C ends this one: Ray would keep it to itself."""
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=fit, name="malmm-training", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLLED_EVERY_S)
        poll()
    if errors:
        raise WorkerError(f"the training failed: {_reason(errors[0])}") from errors[0]


def _reason(error: BaseException) -> str:
    """The last line of the first worker's traceback, without the exception's class."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    lines = str(next(iter(failures.values()))).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^(malmm|builtins|torch)[\w.]*: ", "", lines[-1].strip())


def _worker(settings: dict[str, Any]) -> None:
    from malmm.model.training.peers import Alone, ProcessGroup

    job: Job = settings["job"]
    peers = ProcessGroup() if job.config.workers > 1 else Alone()
    work(job, sampled_on_ray(job.image_size, settings["decode_cpus"]), peers)


def sampled_on_ray(image_size: int, cpus: float = 1.0) -> Sampled:
    """Sample by Ray Data, whose tasks reserve ``cpus`` each."""

    def sampled(rows: Sequence[pa.Table]) -> Iterator[pa.Table]:
        import ray.data

        for begin in range(0, len(rows), _ROWS_A_DATASET):
            part = rows[begin : begin + _ROWS_A_DATASET]
            blocks = [
                pa.concat_tables(part[at : at + _ROWS_A_BLOCK]) for at in range(0, len(part), _ROWS_A_BLOCK)
            ]
            dataset = ray.data.from_blocks(blocks)
            context = dataset.context
            context.execution_options = copy.copy(context.execution_options)
            context.execution_options.preserve_order = True
            # A row a block: a clip is seconds of work.
            context.target_max_block_size = 1
            context.execution_no_progress_timeout_s = -1
            context.enable_progress_bars = context.enable_rich_progress_bars = False
            sampled = dataset.map_batches(
                sampler,
                fn_kwargs={"image_size": image_size},
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                num_cpus=cpus,
            )
            yield from sampled.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)

    return sampled
