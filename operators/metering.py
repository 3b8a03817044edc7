"""What share of its time an operator with a model waits for work: on a GPU, how long it lies idle."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pyarrow as pa

__all__ = ["IdleMeter", "told_to_ray"]

_WINDOW_S = 30.0


class IdleMeter:
    """The share of the last half minute or so that was spent between calls. ``tell`` is called with it after each."""

    def __init__(self, tell: Callable[[float], None], now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now = now
        self._since = now()
        self._busy_s = 0.0

    def measured(self, work: Callable[[pa.Table], pa.Table], rows: pa.Table) -> pa.Table:
        """Do the work on a batch, and count the time it takes as busy."""
        began = self._now()
        try:
            return work(rows)
        finally:
            ended = self._now()
            self._busy_s += ended - began
            passed = ended - self._since
            if passed > 0:
                self._tell(max(0.0, 1 - self._busy_s / passed))
            if passed > _WINDOW_S:
                # What is long ago counts for half from now on.
                self._since = ended - passed / 2
                self._busy_s /= 2


def told_to_ray(stage: str) -> Callable[[float], None]:
    """A function that sets Ray's metric of a stage's idle share; one that does nothing outside of Ray."""
    # Asking in a process of its own needs no Ray, which takes seconds to load.
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return lambda share: None
    from ray.util.metrics import Gauge

    gauge = Gauge(
        "malmm_worker_idle_fraction",
        description="share of its time that a worker with a model waited for work, by stage",
        tag_keys=("stage",),
    )
    gauge.set_default_tags({"stage": stage})
    return gauge.set
