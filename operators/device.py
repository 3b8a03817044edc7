"""The device on which an actor runs its model."""

from __future__ import annotations

import socket
import sys

import torch

from malmm.pipeline.schema.errors import WorkerError

__all__ = ["choose_device"]


def choose_device(device: str | None = None) -> torch.device:
    """The named device, else the GPU that Ray reserved for this worker, else the CPU.

    Ray hides the GPUs of other workers, so the first visible one is this worker's own. Raises WorkerError if Ray
    reserved one that torch cannot use: on a CPU the model would take hours, and more memory than was reserved.
    """
    if device is not None:
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    if reserved := _reserved_gpus():
        raise WorkerError(
            f"Ray reserved GPU {', '.join(map(str, reserved))} of {socket.gethostname()} for this worker, but torch "
            f"{torch.__version__} cannot use it (`python -m torch.utils.collect_env` there says more): install a torch "
            "for its driver, or compute on CPUs with --resource encode_gpus=0 --resource generate_gpus=0"
        )
    return torch.device("cpu")


def _reserved_gpus() -> list[int | str]:
    """The GPUs that Ray reserved for this process; none in a process without Ray."""
    ray = sys.modules.get("ray")
    return list(ray.get_gpu_ids()) if ray is not None and ray.is_initialized() else []
