"""Small files beside archives, on disk or in an object store: read, written whole, or written by the first who tries.

Reads and writes through fsspec where the address is not a path on this machine.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from malmm.pipeline.archive.location import is_local
from malmm.pipeline.archive.store_calls import steadily
from malmm.pipeline.archive.store_check import s3_filesystem
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.sources.backend_errors import Cause, classify
from malmm.pipeline.sources.backends import BackendFailure

__all__ = ["publish_once", "read_file", "write_file"]


def read_file(address: str) -> bytes | None:
    """The content of the file at a resolved address; None if there is none. Raises ArchiveError if unreachable."""
    try:
        if is_local(address):
            return Path(address).read_bytes()
        filesystem, path = _opened(address)
        return steadily(lambda: bytes(filesystem.cat_file(path)))
    except Exception as error:
        cause = _cause(error)
        if cause.kind == "missing" or isinstance(error, NotADirectoryError):
            return None
        raise ArchiveError(f"cannot read {address}: {cause.reason}", uri=address) from error


def publish_once(address: str, content: bytes) -> bool:
    """Make a file that is not there yet, whole at once. Returns False if somebody else made it first.

    Raises ArchiveError if it cannot be written.
    """
    try:
        if is_local(address):
            return _linked(Path(address), content)
        filesystem, path = _opened(address)
        steadily(lambda: filesystem.pipe_file(path, content, mode="create"))
    except Exception as error:
        # Each store's library says in its own way that the file is there; one that was slow may have written it.
        if read_file(address) is not None:
            return False
        raise ArchiveError(f"cannot write {address}: {_cause(error).reason}", uri=address) from error
    return True


def write_file(address: str, content: bytes) -> None:
    """Write a file, whole at once, in the place of one that may be there. Raises ArchiveError if that fails."""
    try:
        if is_local(address):
            made = _beside(Path(address), content)
            made.replace(address)
        else:
            filesystem, path = _opened(address)
            steadily(lambda: filesystem.pipe_file(path, content))
    except Exception as error:
        raise ArchiveError(f"cannot write {address}: {_cause(error).reason}", uri=address) from error


def _cause(error: Exception) -> Cause:
    return error.cause if isinstance(error, BackendFailure) else classify(error)


def _opened(address: str) -> tuple[Any, str]:
    if address.startswith("s3://"):
        return s3_filesystem(), address
    filesystem, path = fsspec.core.url_to_fs(address, skip_instance_cache=True)
    return filesystem, str(path)


def _beside(path: Path, content: bytes) -> Path:
    """A new file in the same folder, with a name that no archive takes for its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    made.write_bytes(content)
    return made


def _linked(path: Path, content: bytes) -> bool:
    made = _beside(path, content)
    try:
        os.link(made, path)
    finally:
        with suppress(OSError):
            made.unlink()
    return True
