"""Sources listed in a thread, so that a run begins with the first file while the rest is still being listed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.listing import SourceFile, list_sources

__all__ = ["BackgroundListing"]

_WAKE_S = 0.5


class BackgroundListing:
    """``found`` grows in the order of the listing: files, and a SourceError for whatever could not be listed.

    ``has_file`` says whether a file is among it, and ``ended`` that nothing follows. An exception that the listing
    raised itself is raised by whoever waits.
    """

    def __init__(self, sources: Sequence[str]) -> None:
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
        """List while in the block. Leaving it early ends the listing at the next file."""
        self._thread.start()
        try:
            yield self
        finally:
            self._unwanted = True

    @property
    def ended(self) -> bool:
        """Whether all of it is in ``found``. Raises what the listing raised."""
        with self._changed:
            if self._done and self._error is not None:
                raise self._error
            return self._done

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until a condition holds, which is asked whenever something was found, or until the listing ends."""
        while not until() and not self.ended:
            with self._changed:
                if not self._done:
                    # Woken now and then: Ctrl-C is noticed between waits.
                    self._changed.wait(timeout=_WAKE_S)

    def _list(self, sources: tuple[str, ...]) -> None:
        try:
            for found in list_sources(sources):
                if self._unwanted:
                    break
                self.found.append(found)
                self.has_file = self.has_file or isinstance(found, SourceFile)
                with self._changed:
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - whatever it is, who waits has to see it
            self._error = error
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()
