"""Find the cluster that ``ray start`` made on this machine, and tell a running head from one that was killed.

``ray start --head`` writes the head's address into the file ``ray_current_cluster`` of Ray's temporary folder, and
``ray stop`` removes it. A head that is killed leaves the file behind, and Ray would go on connecting to nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from malmm.pipeline.cluster.session_folder import default_folder

__all__ = ["RecordedHead", "listens", "recorded_head"]

_ADDRESS_FILE = "ray_current_cluster"
_ANSWERS_WITHIN_S = 5.0


@dataclass(frozen=True)
class RecordedHead:
    """The head whose ``address`` is in ``file``; ``alive`` says whether a process listens there."""

    address: str
    file: Path
    alive: bool

    @property
    def note(self) -> str:
        """One sentence on a head that is gone; empty for one that is there."""
        if self.alive:
            return ""
        return (
            f"no Ray head listens at {self.address or 'an empty address'}, which {self.file} names: it was killed; "
            "starting a cluster for this run alone"
        )


def recorded_head(environment: Mapping[str, str] = os.environ) -> RecordedHead | None:
    """The head that ``ray start`` recorded on this machine; None if it recorded none or the file cannot be read."""
    file = default_folder(environment) / _ADDRESS_FILE
    try:
        address = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return RecordedHead(address, file, alive=listens(address, within_s=_ANSWERS_WITHIN_S) is None)


def listens(address: str, *, within_s: float) -> str | None:
    """None if a process accepts connections at ``HOST:PORT``, else the reason why not, as one sentence."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return f"{address!r} is not HOST:PORT"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=within_s).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return str(error)
    return None
