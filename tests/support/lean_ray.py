"""Ray without those of its programs that no test asks anything: its pages, what adds nodes, what prints logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ray._private.node import Node

__all__ = ["lean"]

_UNASKED = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def lean() -> Iterator[None]:
    """Nodes that this process starts in the block do without them: each is a process that loads half of Ray."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _UNASKED:
            assert hasattr(Node, name)
            patch.setattr(Node, name, lambda self, **_: None)
        yield
