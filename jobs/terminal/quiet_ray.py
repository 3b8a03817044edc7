"""Keep Ray's own messages off the terminal while the command line runs a job; Ray's log files have them.

This changes the process: its environment, its warnings, Ray Data's logger and, while Ray starts, standard error. So
the command line does it, for a process that is its own, and never the library.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from malmm.pipeline.schema.errors import MalmmError

__all__ = ["RayQuiet", "held_errors", "quiet_ray"]

_NEVER_SHOWN = (
    # Starting a process after Lance was loaded: Ray's are new programs, so nothing of Lance is used there.
    r".*lance is not fork-safe",
    r".*lancedb fork support",
)
_NOT_SHOWN = (
    r"The maximum number of concurrent tasks",
    # A cluster has more workers than a short run has segments.
    r"The minimum number of concurrent actors",
)


class RayQuiet:
    """Whether Ray starts now: call ``starting`` before it does, and ``started`` when it is over."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._held = ExitStack()

    def starting(self) -> None:
        """Hold back what is written to standard error from now on."""
        if not self._verbose:
            # Not earlier: loading Ray Data sets up its logger again.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            self._held.enter_context(held_errors())

    def started(self) -> None:
        """Let it through again; what was held back is gone."""
        self._held.close()

    def ended(self, error: BaseException | None) -> None:
        """As ``started``; an error that is not this project's own lets out what was held back."""
        if error is None:
            self._held.close()
        else:
            self._held.__exit__(type(error), error, error.__traceback__)


@contextmanager
def quiet_ray(*, verbose: bool) -> Iterator[RayQuiet]:
    """Quiet Ray in this process for the time of a block, but for errors; ``verbose`` lets all but noise through."""
    # A thread that still waits for Ray after Ctrl-C has ended it would have Ray start a second cluster.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logger = logging.getLogger("ray.data")
    level = logger.level
    quiet = RayQuiet(verbose=verbose)
    with warnings.catch_warnings():
        for message in _NEVER_SHOWN if verbose else (*_NEVER_SHOWN, *_NOT_SHOWN):
            warnings.filterwarnings("ignore", message=message)
        try:
            yield quiet
        except BaseException as error:
            quiet.ended(error)
            raise
        else:
            quiet.ended(None)
        finally:
            logger.setLevel(level)


@contextmanager
def held_errors() -> Iterator[None]:
    """Hold back what is written to standard error, by Ray's C++ core too; an error that is not ours lets it out."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except MalmmError:
            raise
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
