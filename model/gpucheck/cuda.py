"""What only a card has: work recorded as a CUDA graph, its memory's peak, and the driver's version."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch.utils import collect_env

__all__ = ["driver_version", "peak_bytes", "recorded"]

_Part = TypeVar("_Part")
_CALLS_BEFORE_RECORDING = 3


def driver_version() -> str:
    """The version of NVIDIA's driver as ``nvidia-smi`` tells it, else "unknown"."""
    return collect_env.get_nvidia_driver_version(collect_env.run) or "unknown"


def recorded(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work as a CUDA graph, replayed by each call. Raises RuntimeError for work that cannot be recorded.

    As torch's notes on CUDA graphs have it: the work is called on another stream first, then recorded.
    """
    with torch.cuda.device(device):
        before = torch.cuda.Stream()
        before.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(before):
            for _ in range(_CALLS_BEFORE_RECORDING):
                work()
        torch.cuda.current_stream().wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
    return graph.replay


def peak_bytes(load: Callable[[], _Part], work: Callable[[_Part], object], device: torch.device) -> int:
    """Most bytes allocated at once while a part works, with the part itself."""
    before = torch.cuda.memory_allocated(device)
    part = load()
    torch.cuda.reset_peak_memory_stats(device)
    work(part)
    return torch.cuda.max_memory_allocated(device) - before
