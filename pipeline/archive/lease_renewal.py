"""Renewal of a lease: the holder increments its counter every few seconds, and so notices the loss of the lease."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

from malmm.pipeline.archive.fencing import forget_old_versions, overtaken
from malmm.pipeline.archive.lease_table import open_writer
from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.schema.errors import ArchiveError

__all__ = ["Renewal", "now_s"]

PATIENCE_S = 30.0
"""How long a holder may be silent before it counts as dead."""
BEAT_S = 5.0
"""How often a holder renews its lease."""

_BEATS_A_CLEANING, _KEPT = 60, timedelta(minutes=10)


class Renewal:
    """Renews in a thread of its own, from ``start`` to ``stop`` or until the lease is lost."""

    def __init__(self, archive_uri: str, holder: str) -> None:
        self.archive_uri = archive_uri
        self.holder = holder
        self.is_lost = False
        self._last_beat_s = now_s()
        self._beats = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="malmm-lease", daemon=True)

    def start(self) -> None:
        """Start renewing."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing, and wait until the thread has ended."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raise ArchiveBusy if another writer took the lease over, and ArchiveError if that cannot be found out.

        How long the holder was silent does not matter: as long as its row stands it is the holder, and what it commits
        after that is fenced (``fencing``).
        """
        if not self.is_lost and now_s() - self._last_beat_s > 2 * BEAT_S:
            self.renew()
        if self.is_lost:
            raise overtaken(self.archive_uri)

    def renew(self) -> None:
        """Increment the holder's counter. Raises ArchiveError if the archive cannot be reached."""
        with self._lock:
            asked_s = now_s()
            with lance_errors(self.archive_uri, "keep the lease of"):
                dataset = open_writer(self.archive_uri)
                done = dataset.update({"beat": "beat + 1"}, where=equals("holder", self.holder))
                self._beats += 1
                if self._beats % _BEATS_A_CLEANING == 0:
                    forget_old_versions(dataset, _KEPT)
            if done["num_rows_updated"]:
                self._last_beat_s = asked_s
            else:
                self.is_lost = True

    def _keep_renewing(self) -> None:
        while not self._ended.wait(BEAT_S) and not self.is_lost:
            try:
                self.renew()
            except ArchiveError:
                # The store cannot be reached for now: `check` raises if it still cannot before a commit.
                continue


def now_s() -> float:
    """Seconds of a clock that also counts while the machine is suspended, and that nobody can set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
