"""Prefetch: run slow calls in parallel and yield their results in order, with a bounded look-ahead."""

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
    """``map`` with a thread pool. Reads ahead at most twice as many items as there are threads."""
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
