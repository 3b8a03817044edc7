"""``malmm`` in one process that kills itself in the middle of its work: at a given number of calls.

This file is the program that runs the command. Counted are calls of functions that store and that drive a run, in its
main thread, so that one number stands for one place in the work.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["command", "die_after"]

_COUNTED = ("/pipeline/archive/", "/pipeline/indexing/", "/lance/", "/support/inline_stages.py")


def command(calls: int, *options: str | Path) -> list[str]:
    """``malmm`` with these options, killed at so many calls unless it ends before."""
    return [sys.executable, __file__, str(calls), *map(str, options)]


def die_after(calls: int) -> None:
    """Have this process killed at so many calls, counted from now on in this thread."""
    left = calls

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        if event == "call" and any(part in frame.f_code.co_filename for part in _COUNTED):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)


def _main(calls: int, *options: str) -> int:
    # The folder that holds `support`, in the place of this file's own.
    sys.path[0] = str(Path(__file__).parents[1])
    import pytest

    from malmm.jobs.cli import main
    from support.inline_stages import InlineStages

    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        die_after(calls)
        return main(options)


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), *sys.argv[2:]))
