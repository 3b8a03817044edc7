"""Slow calls made side by side, their results in order, without reading far ahead of what is taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

_CALLS_AT_ONCE = 32
T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``map`` with a pool of threads. At most twice as many items as there are threads are read ahead."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(_CALLS_AT_ONCE)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            while waiting and (waiting[0].done() or len(waiting) >= 2 * _CALLS_AT_ONCE):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
