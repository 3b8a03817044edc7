"""Waiting for what must happen: the one place where tests poll."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["until"]

T = TypeVar("T")
# What is waited for needs the processor more, and most of it comes soon.
_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2)


def until(
    condition: Callable[[], T | None],
    *,
    going: Callable[[], str | None] | None = None,
    within_s: float = 900.0,
) -> T:
    """Call ``condition`` again and again until it returns something true, and return that.

    ``going`` returns None while the condition can still come true and otherwise the reason why it cannot. The limit is
    no measure of speed: it is there for a test that would wait for ever, and far above what a busy machine takes.
    Raises AssertionError with the reason, and TimeoutError at the limit.
    """
    limit = time.monotonic() + within_s
    for pause_s in itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1])):
        # Asked first: what ended may have fulfilled the condition before.
        over = going() if going is not None else None
        if found := condition():
            return found
        assert over is None, over
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {within_s:g} s in vain")
        time.sleep(pause_s)
    raise AssertionError("endless")
