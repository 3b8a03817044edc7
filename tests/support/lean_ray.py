"""Ray without those of its programs that no test asks anything: its pages, what adds nodes, what prints logs.

This file is also the program that runs ``malmm`` so, and ``ray start``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ray._private import ray_constants, services
from ray._private.node import Node

__all__ = ["command", "head_with_jobs", "lean"]

_PAGES, _OTHERS = "start_api_server", ("start_monitor", "start_log_monitor")
# What takes jobs, and what writes down which node is the head, where that looks.
_JOBS, _RAY = "JobHead,NodeHead", "ray"


def command(*options: str | Path) -> list[str]:
    """``malmm`` with these options, as a process whose own Ray does without them."""
    return [sys.executable, __file__, *map(str, options)]


def head_with_jobs(*options: str) -> list[str]:
    """``ray start`` with these options, as a process whose head has the pages that taking jobs needs, and no more."""
    return [sys.executable, __file__, _RAY, "start", *options]


@contextmanager
def lean() -> Iterator[None]:
    """Nodes that this process starts in the block do without them: each is a process that loads half of Ray."""
    with _without(_PAGES, *_OTHERS):
        yield


@contextmanager
def _lean_with_jobs() -> Iterator[None]:
    """As ``lean``, with the pages that taking jobs needs."""
    start = services.start_ray_process

    def started(command: list[str], process_type: str, *arguments: Any, **options: Any) -> Any:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            command = [*command, f"--modules-to-load={_JOBS}"]
        return start(command, process_type, *arguments, **options)

    with _without(*_OTHERS), pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "start_ray_process", started)
        yield


@contextmanager
def _without(*names: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            assert hasattr(Node, name)
            patch.setattr(Node, name, lambda self, **_: None)
        yield


def _main() -> int:
    # The folder that holds `support`, in the place of this file's own.
    sys.path[0] = str(Path(__file__).parents[1])
    if sys.argv[1] == _RAY:
        from ray.scripts import scripts

        del sys.argv[1]
        with _lean_with_jobs():
            return int(scripts.main() or 0)
    from malmm.jobs.cli import main

    with lean():
        return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_main())
