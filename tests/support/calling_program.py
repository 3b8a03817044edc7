"""A program with work of its own that calls the library, and what of the program a call must leave as it was."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import ray.data
import torch

__all__ = ["Program"]


class Program:
    """The program that calls the library: its settings before and after the call, and a dataset of its own."""

    def __init__(self) -> None:
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        # Nothing of its 50 blocks waits for a CPU; only some fit between the workers and the reader at once.
        rows = ray.data.from_items([{"n": n} for n in range(50)], override_num_blocks=50)
        self._batches = iter(rows.map_batches(lambda batch: batch, num_cpus=0).iter_batches(batch_size=1))
        self._numbers = [int(next(self._batches)["n"][0])]

    @staticmethod
    def settings() -> dict[str, Any]:
        """What belongs to the process and not to a call."""
        ray_logger = logging.getLogger("ray")
        return {
            "environment": dict(os.environ),
            "folder": Path.cwd(),
            "standard error": (os.fstat(2).st_dev, os.fstat(2).st_ino),
            "streams": (sys.stdout, sys.stderr),
            "warnings": list(warnings.filters),
            "loggers": [(it.level, list(it.handlers), it.propagate) for it in (logging.root, ray_logger)],
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            "hooks": (sys.excepthook, sys.unraisablehook, sys.displayhook),
            "Ray Data": repr(sorted(vars(ray.data.DataContext.get_current()).items(), key=str)),
            "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        }

    def go_on(self) -> list[int]:
        """The numbers of all rows of the program's own dataset, those before the call first."""
        return sorted([*self._numbers, *(int(batch["n"][0]) for batch in self._batches)])
