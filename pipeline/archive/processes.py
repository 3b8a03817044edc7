"""Where a process runs and when it began, so that another one can tell whether it still lives."""

from __future__ import annotations

import socket
from pathlib import Path

__all__ = ["place", "started"]


def place() -> str:
    """This machine and its process numbers' namespace: in containers of one host, equal numbers mean others."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    return "/".join(
        [
            socket.gethostname(),
            boot.read_text().strip() if boot.exists() else "",
            str(namespace.readlink()) if namespace.is_symlink() else "",
        ]
    )


def started(process: int) -> str:
    """A process and when it began, since its number may have gone to another; empty when there is none."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie does nothing any more. The 22nd field of all is the time it began.
    return "" if fields[0] == "Z" else f"{process}/{fields[19]}"
