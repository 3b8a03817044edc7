"""List sources in a thread, so that a run starts with the first file while the rest is being listed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.schema.partition import Partition
from malmm.pipeline.sources.listing import SourceFile, list_sources

__all__ = ["BackgroundListing"]

_WAKE_S = 0.5


class BackgroundListing:
    """Lists sources into ``found``, in order: files, and a SourceError for each source that cannot be listed.

    Files whose URI is in ``leave_out`` are counted in ``left_out`` and not in ``found``. Files that do not belong to
    the run's ``partition`` are counted in ``elsewhere`` and not in ``found``. ``has_file`` says whether a file was
    listed, of this partition or another, and ``ended`` whether the listing is complete. Any other exception of the
    listing is raised by ``ended`` and ``wait``.
    """

    def __init__(
        self, sources: Sequence[str], leave_out: Collection[str] = (), partition: Partition | None = None
    ) -> None:
        self.leave_out = leave_out
        self.partition = partition
        self.left_out = 0
        self.elsewhere = 0
        self.found: list[SourceFile | SourceError] = []
        self.has_file = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._done = self._unwanted = False
        self._thread = threading.Thread(
            target=self._list, args=(tuple(sources),), name="malmm-listing", daemon=True
        )

    @contextmanager
    def running(self) -> Iterator[BackgroundListing]:
        """List while the block runs. Leaving the block early stops the listing at its next file."""
        self._thread.start()
        try:
            yield self
        finally:
            self._unwanted = True

    @property
    def ended(self) -> bool:
        """Whether the listing is complete. Raises the listing's exception, if any."""
        with self._changed:
            if self._done and self._error is not None:
                raise self._error
            return self._done

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until ``until()`` is true or the listing ends. Checks again whenever a file was found."""
        while not until() and not self.ended:
            with self._changed:
                if not self._done:
                    # Wakes up now and then, since Ctrl-C is noticed only between waits.
                    self._changed.wait(timeout=_WAKE_S)

    def _list(self, sources: tuple[str, ...]) -> None:
        try:
            for found in list_sources(sources):
                if self._unwanted:
                    break
                if found.uri in self.leave_out:
                    self.left_out += 1
                    continue
                is_file = isinstance(found, SourceFile)
                self.has_file = self.has_file or is_file
                if is_file and self.partition is not None and not self.partition.holds(found.uri):
                    self.elsewhere += 1
                    continue
                self.found.append(found)
                with self._changed:
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()
