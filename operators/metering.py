"""Operators with a model, telling what share of their time they wait: on a GPU, how long it lies idle."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
from ray.util.metrics import Gauge

from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts

__all__ = ["IdleMeter", "MeteredEncodeSegments", "MeteredGenerateTexts"]

_WINDOW_S = 30.0


class IdleMeter:
    """The share of the last half minute or so that was spent between calls. ``tell`` hears it after each call."""

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


def _told(stage: str) -> Callable[[float], None]:
    gauge = Gauge(
        "malmm_worker_idle_fraction",
        description="share of its time that a worker with a model waited for work, by stage",
        tag_keys=("stage",),
    )
    gauge.set_default_tags({"stage": stage})
    return gauge.set


class MeteredEncodeSegments(EncodeSegments):
    """``EncodeSegments`` with a meter."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Encode a batch."""
        if not hasattr(self, "_meter"):
            # Loading the model is neither work nor waiting.
            self._meter = IdleMeter(_told("encode"))
        return self._meter.measured(super().__call__, rows)


class MeteredGenerateTexts(GenerateTexts):
    """``GenerateTexts`` with a meter."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Answer a batch."""
        if not hasattr(self, "_meter"):
            self._meter = IdleMeter(_told("generate"))
        return self._meter.measured(super().__call__, rows)
