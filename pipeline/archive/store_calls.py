"""Calls through fsspec for small things beside an archive's tables, tried again where the store stumbles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from malmm.pipeline.sources.backends import Patience, patiently

__all__ = ["steadily"]

T = TypeVar("T")
# As long as Lance, more or less: a store that is away ends the command within seconds.
_PATIENCE = Patience(attempts=4, first_pause_s=0.25)


def steadily(action: Callable[[], T]) -> T:
    """Call a store and return the result; retry what passes, such as a 503. Raises BackendFailure."""
    return patiently(action, _PATIENCE)
