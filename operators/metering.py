"""Measure the idle share of an operator with a model: how much of its time it waits for work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pyarrow as pa

__all__ = ["IdleMeter", "told_to_ray"]

_WINDOW_S = 30.0


class IdleMeter:
    """Measures which share of about the last half minute was spent between calls. Calls ``tell`` with it."""

    def __init__(self, tell: Callable[[float], None], now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now = now
        self._since = now()
        self._busy_s = 0.0

    def measured(self, work: Callable[[pa.Table], pa.Table], rows: pa.Table) -> pa.Table:
        """Run ``work`` on a batch and count its time as busy."""
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
                # From now on, the time so far has half its weight.
                self._since = ended - passed / 2
                self._busy_s /= 2


def told_to_ray(stage: str) -> Callable[[float], None]:
    """Return a function that sets Ray's metric of a stage's idle share; it does nothing outside of Ray."""
    # `ask` runs without Ray, which takes seconds to import.
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
