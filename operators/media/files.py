"""Open a source's bytes, on disk or in an object store."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.ranges import open_ranges
from malmm.pipeline.schema.errors import MediaError

__all__ = ["MediaFile", "check_local", "denied", "empty_file", "local_path", "open_bytes"]


@dataclass(frozen=True)
class MediaFile:
    """A file to read, perhaps several times: ``cache`` keeps what each read of a remote file needs again."""

    uri: str
    cache: FileCache | None = None


def local_path(uri: str) -> Path | None:
    """The path of a plain path or a ``file://`` URI; None for other schemes."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


def check_local(uri: str, path: Path) -> None:
    """Raise MediaError of kind ``missing``, ``denied``, ``not_a_video``, ``empty_file`` or ``decode_error`` unless
    ``path`` is a non-empty regular file that this user may read."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
    except PermissionError as error:
        raise denied(uri) from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{uri} cannot be reached: {error}", uri=uri, kind="decode_error") from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(
            f"{uri} is a directory, not a video: give it to the listing, or name one file of it",
            uri=uri,
            kind="not_a_video",
        )
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{uri} is not a regular file: copy it to one", uri=uri, kind="not_a_video")
    if found.st_size == 0:
        raise empty_file(uri)
    if not os.access(path, os.R_OK):
        raise denied(uri)


def denied(uri: str) -> MediaError:
    """The error for a file that this user may not read."""
    return MediaError(f"{uri} may not be read: give this user read permission", uri=uri, kind="denied")


def empty_file(uri: str) -> MediaError:
    """The error for a file of 0 bytes."""
    return MediaError(f"{uri} is empty (0 bytes): copy it again from its source", uri=uri, kind="empty_file")


@contextlib.contextmanager
def open_bytes(uri: str, cache: FileCache | None = None) -> Iterator[IO[bytes]]:
    """Open a source to read its bytes; of a remote file, those in ``cache`` are not fetched again.

    Raises MediaError of kind ``missing``, ``denied``, ``decode_error`` or ``unreachable``.
    """
    try:
        path = local_path(uri)
        handle: Any = path.open("rb") if path is not None else open_ranges(uri, cache)
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
    except PermissionError as error:
        raise denied(uri) from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{uri} cannot be opened: {error}", uri=uri, kind="decode_error") from error
    with handle:
        yield handle
