"""Identity of a process (machine, number, start time), by which another process can tell whether it is alive."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["is_alive", "place", "started"]

_PROC = Path("/proc")


def place() -> str:
    """This machine, its boot and PID namespace: one process number means different processes in two containers."""
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
    """ "number/start time" of a process, since its number may be reused later; "" if there is no such process.

    Only the number if the start time is hidden, as a ``/proc`` mounted with ``hidepid`` hides other users' processes.
    """
    try:
        fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return str(process) if _answers(process) else ""
    # A zombie counts as dead. The start time is the 22nd field of the line.
    return "" if fields[0] == "Z" else f"{process}/{fields[19]}"


def is_alive(process: str) -> bool | None:
    """Whether a process of this machine, as ``started`` wrote it, is alive; None if unknown."""
    number, _, _ = process.partition("/")
    if not number.isdigit():
        return None
    now = started(int(number))
    if not now:
        return False
    # Without a start time it may be the same process or a later one with its number.
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
