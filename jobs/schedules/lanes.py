"""One run at a time for each archive: jobs that come due meanwhile wait, each at most once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

__all__ = ["Due", "Lane"]


@dataclass(frozen=True)
class Due:
    """A job that is to run, and the moment that its schedule wanted it."""

    job: str
    scheduled_for: datetime


class Lane:
    """The queue of an archive, and the thread that works it off.

    A job that comes due while it waits already is not put behind itself: the later moment takes the place of the
    earlier. One that comes due while it runs is run once more afterwards, however often it came due.
    """

    def __init__(self, name: str, work: Callable[[Due], None]) -> None:
        self._work = work
        self._waiting: OrderedDict[str, Due] = OrderedDict()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._go, name=f"malmm-lane {name}")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def put(self, due: Due) -> bool:
        """Have a job run; False when it was waiting already."""
        with self._changed:
            known = due.job in self._waiting
            self._waiting[due.job] = due
            self._changed.notify()
            return not known

    def stop(self) -> None:
        """Begin nothing any more, and wait for the end of what runs."""
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
