"""Files whose server knows no ranges, copied whole to a temporary file of this process.

Without ranges every jump in a file would transfer all of it again.
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
"""The largest file that is copied, 64 GiB."""


class WholeFile:
    """A copy without a name on this machine's disk, gone when nobody holds it any more. ``tag`` is what its server
    called the version, empty if nothing."""

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

    Raises any exception of the backend, and OSError when there is no room for the copy: call it through ``patiently``.
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
