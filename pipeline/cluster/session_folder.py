"""Choose the folder in which Ray keeps a session: its logs, and the sockets through which its processes talk.

Ray takes ``RAY_TMPDIR``, else ``TMPDIR``, else ``/tmp``. The path of a socket may have 107 bytes and Ray encodes it in
ASCII, so that a long or accented ``TMPDIR`` (job schedulers and macOS make such) keeps Ray from starting at all.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from malmm.pipeline.schema.errors import WorkerError

__all__ = ["MOST_SOCKET_BYTES", "default_folder", "session_folder", "unfit"]

# Linux allows 108 bytes with the closing zero, macOS 104.
MOST_SOCKET_BYTES = 103 if os.uname().sysname == "Darwin" else 107
# The longest path that Ray appends to the folder: a session of a process with seven digits, and the store's socket with
# a number, which Ray adds while a socket of the same name exists.
_LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.9"
_SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - the folder made there is this user's alone


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Ray's default folder, which may not exist yet."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in environment:
            return Path(environment[name]) / "ray"
    return Path("/tmp/ray")  # noqa: S108 - Ray's


def unfit(folder: Path) -> str | None:
    """Why Ray cannot keep a session in this folder, as the end of a sentence; None if it can."""
    text = str(folder)
    if not text.isascii():
        return "has characters that are not ASCII"
    if not folder.is_absolute():
        return "is not absolute"
    if len(text) + len(_LONGEST_SOCKET) > MOST_SOCKET_BYTES:
        most = MOST_SOCKET_BYTES - len(_LONGEST_SOCKET)
        return f"has {len(text)} bytes, and a socket's path leaves room for {most}"
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return f"cannot be written: {there} is not a folder that this user may write"
    return None


def session_folder(
    environment: Mapping[str, str] = os.environ, short_places: Sequence[str] = _SHORT_PLACES
) -> str | None:
    """The folder to give to Ray for a session; None where Ray's default folder is usable.

    Otherwise a folder of this user alone in one of ``short_places``, made if need be. Raises WorkerError, which names
    the variable to set, if there is no place for it.
    """
    default = default_folder(environment)
    reason = unfit(default)
    if reason is None:
        return None
    for place in short_places:
        folder = _own_folder(Path(place))
        if folder is not None and unfit(folder) is None:
            return str(folder)
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in environment else "TMPDIR"
    raise WorkerError(
        f"Ray cannot keep its sockets in {default}, which {reason}, nor in any of {', '.join(short_places)}: set "
        f"RAY_TMPDIR to a short folder that you may write ({name} is {environment.get(name, 'not set')})"
    )


def _own_folder(place: Path) -> Path | None:
    """A folder of this user alone in ``place``, the same one each time; None if none can be made there."""
    folder = place / f"malmm-ray-{os.geteuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if _is_private(folder):
            return folder
        # Another user owns the folder or may write to it, and could replace the sockets in it.
        return Path(tempfile.mkdtemp(prefix="malmm-ray-", dir=place))
    except OSError:
        return None


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
