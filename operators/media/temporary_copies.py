"""Copy a whole remote file to a temporary file, for servers without range support.

Without ranges, every seek in a file would transfer all of it again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import Any

from malmm.pipeline.sources.backends import HTTP, Backend
from malmm.pipeline.sources.http_files import save

__all__ = ["WholeFile", "copied"]

MOST_BYTES = 1 << 36
"""Size of the largest file to copy, 64 GiB."""


class WholeFile:
    """An unnamed temporary copy on this machine's disk, deleted when it is no longer referenced. ``tag`` is the
    server's tag of this version, empty if it has none."""

    def __init__(self, handle: Any, tag: str) -> None:
        self._descriptor = handle.fileno()
        self.tag = tag
        self.size_bytes = os.fstat(self._descriptor).st_size
        weakref.finalize(self, handle.close)

    def read(self, begin: int, end: int) -> bytes:
        """The bytes [begin, end)."""
        return os.pread(self._descriptor, end - begin, begin)


def copied(backend: Backend) -> WholeFile:
    """Copy a file.

    Raises any exception of the backend, and OSError if the disk is full: call it through ``patiently``.
    """
    handle = tempfile.TemporaryFile(prefix="malmm-")  # noqa: SIM115 - closed with the WholeFile
    try:
        tag = ""
        if backend.protocol in HTTP:
            tag = save(backend.filesystem, backend.path, handle, at_most=MOST_BYTES).tag.strip('"')
        else:
            with backend.filesystem.open(backend.path, "rb") as source:
                shutil.copyfileobj(source, handle)
        handle.flush()
        return WholeFile(handle, tag)
    except BaseException:
        handle.close()
        raise
