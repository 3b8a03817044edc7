"""Queue the runs of one archive: one at a time, each waiting job at most once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Due", "Lane"]


@dataclass(frozen=True)
class Due:
    """A job that is due, and its scheduled time."""

    job: str
    scheduled_for: datetime


class Lane:
    """The run queue of an archive, with its worker thread.

    A job that is already waiting keeps its place and takes the later time. A job that comes due while it runs is run
    once more afterwards.
    """

    def __init__(self, name: str, work: Callable[[Due], None]) -> None:
        self._work = work
        self._waiting: OrderedDict[str, Due] = OrderedDict()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._go, name=f"malmm-lane {name}")

    def start(self) -> None:
        """Start the worker thread."""
        self._thread.start()

    def put(self, due: Due) -> bool:
        """Add a job to the queue. Return False if it was already waiting."""
        with self._changed:
            known = due.job in self._waiting
            self._waiting[due.job] = due
            self._changed.notify()
            return not known

    def stop(self) -> None:
        """Start no further job and wait for the current one."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _go(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                _, due = self._waiting.popitem(last=False)
            self._work(due)
