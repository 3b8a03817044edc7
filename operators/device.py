"""The device on which an actor runs its model."""

from __future__ import annotations

import torch

__all__ = ["choose_device"]


def choose_device(device: str | None = None) -> torch.device:
    """The named device, else the GPU that Ray reserved for this worker, else the CPU.

    Ray hides the GPUs of other workers, so the first visible one is this worker's own.
    """
    if device is not None:
        return torch.device(device)
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
