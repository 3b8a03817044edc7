"""Where a process runs and when it began, so that another one can tell whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["is_alive", "place", "started"]

_PROC = Path("/proc")


def place() -> str:
    """This machine and its process numbers' namespace: in containers of one host, equal numbers mean others."""
    boot = _PROC / "sys/kernel/random/boot_id"
    namespace = _PROC / "self/ns/pid"
    return "/".join(
        [
            socket.gethostname(),
            boot.read_text().strip() if boot.exists() else "",
            str(namespace.readlink()) if namespace.is_symlink() else "",
        ]
    )


def started(process: int) -> str:
    """A process and when it began, since its number may have gone to another; empty when there is none.

    Where the system hides when it began, as ``/proc`` mounted with ``hidepid`` does of other users' processes, only the
    number is given.
    """
    try:
        fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return str(process) if _answers(process) else ""
    # A zombie does nothing any more. The 22nd field of all is the time it began.
    return "" if fields[0] == "Z" else f"{process}/{fields[19]}"


def is_alive(process: str) -> bool | None:
    """Whether a process of this machine, as ``started`` wrote it, still lives; None if it cannot be told."""
    number, _, _ = process.partition("/")
    if not number.isdigit():
        return None
    now = started(int(number))
    if not now:
        return False
    # Without a beginning it may be the same process or a later one of its number.
    return now == process if "/" in now and "/" in process else None


def _answers(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
