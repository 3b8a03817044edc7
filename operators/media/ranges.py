"""Read a remote file by ranges, so that a span of a long video transfers little more than its own bytes.

Two things make a segment cheap. What a demuxer reads to open a file (an MP4's index may be megabytes) is cached for the
next segment of the same file, in a cache that the reading process owns. And read-ahead stops at the end of the span, if
the container's index says where that is; without an index, read-ahead is an eighth of what was read so far.

If a server does not support ranges, or does not say how large a file is, the whole file is copied once. Answers are
checked: a wrong range, or a range of another version of the file, is an error and never becomes a frame.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.temporary_copies import WholeFile, copied
from malmm.pipeline.schema.errors import MediaError, MediaKind
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import HTTP, Backend, BackendFailure, open_backend, patiently
from malmm.pipeline.sources.fingerprints import fingerprint_of, size_of, tag_of
from malmm.pipeline.sources.folders import look
from malmm.pipeline.sources.http_files import read_range

__all__ = ["RangeReader", "open_ranges"]

LEAST_BYTES = 1 << 17
MOST_BYTES = 1 << 23
TOTAL_S = 300.0
"""Time limit for a range with all retries: longer than for metadata, since a range may be large."""

T = TypeVar("T")


def open_ranges(uri: str, cache: FileCache | None = None) -> RangeReader:
    """Open any URI that fsspec supports. Ranges in ``cache`` are not fetched again.

    Raises MediaError of kind ``missing``, ``denied``, ``not_a_video`` for a directory, ``unreachable`` or
    ``decode_error``.
    """
    try:
        backend = open_backend(uri)
    except BackendFailure as failure:
        raise MediaError(failure.sentence(uri, deed="opened"), uri=uri, kind="decode_error") from failure
    info = _get_patiently(uri, lambda: look(backend, backend.path))
    if info.get("type") == "directory":
        raise MediaError(
            f"{uri} is a directory, not a video: give it to the listing, or name one file of it",
            uri=uri,
            kind="not_a_video",
        )
    return RangeReader(backend, info, cache)


class RangeReader(io.RawIOBase):
    """A remote file, read when needed.

    Until ``settled`` is called, everything read is cached, for later reads of the same file. Transient failures of the
    store are retried with growing pauses, then raised as a MediaError of kind ``unreachable``, and again by every later
    read. A demuxer may take a failed read for the end of the file, so the caller checks ``error`` at the end. ``tag``
    is the store's tag of this version, empty if it has none.
    """

    def __init__(self, backend: Backend, info: dict[str, Any], cache: FileCache | None = None) -> None:
        super().__init__()
        self._cache = cache if cache is not None else FileCache(0)
        self.uri, self._backend = backend.uri, backend
        size_bytes = size_of(backend.protocol, info)
        self.tag = tag_of(backend.protocol, info)
        self._file = (self.uri, str(size_bytes), fingerprint_of(backend.protocol, info))
        self._is_told_apart = not self._file[2].endswith("-")
        self._whole: WholeFile | None = None
        self.size_bytes = size_bytes or 0
        if size_bytes is None:
            self.size_bytes = self._copy().size_bytes
        self._position = 0
        self._begin, self._data = 0, b""
        self._opening = True
        self._ahead = LEAST_BYTES
        self._run_from = 0
        self._end: int | None = None
        self.error: MediaError | None = None
        self.bytes_read = 0

    @property
    def version(self) -> str:
        """A short hash of the file's version: it changes with its size, tag or time."""
        return hashlib.blake2b("\0".join(self._file).encode(), digest_size=12).hexdigest()

    def settled(self, end: int | None = None) -> None:
        """Declare that the header is read and the body follows, wanted up to position ``end`` (None if unknown)."""
        self._opening = False
        self._end = end
        self._run_from = self._position

    def readable(self) -> bool:
        """True: the file can be read."""
        return True

    def seekable(self) -> bool:
        """True: the file can be seeked."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position. Reads nothing."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end of the file."""
        view = memoryview(buffer).cast("B")
        if self._position >= self.size_bytes or not len(view):
            return 0
        offset = self._position - self._begin
        if not 0 <= offset < len(self._data):
            self._fetch(len(view))
            offset = self._position - self._begin
        part = self._data[offset : offset + len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def read(self, size: int = -1) -> bytes:
        """Read ``size`` bytes, fewer only at the end of the file."""
        wanted = self.size_bytes - self._position if size is None or size < 0 else size
        parts = []
        while wanted > 0:
            buffer = bytearray(wanted)
            count = self.readinto(buffer)
            if not count:
                break
            parts.append(bytes(buffer[:count]))
            wanted -= count
        return b"".join(parts)

    def _fetch(self, wanted: int) -> None:
        """Fill the buffer from ``_position`` on."""
        if self.error is not None:
            raise self.error
        kept = self._cache.find(self._file, self._position)
        if kept is not None:
            self._begin, self._data = kept
            return
        begin = self._position
        end = min(self.size_bytes, begin + max(wanted, self._reach(begin)))
        try:
            self._data = self._get(begin, end)
        except MediaError as error:
            self.error = error
            raise
        self._begin = begin
        self.bytes_read += end - begin
        if self._opening:
            self._cache.add(self._file, begin, self._data)

    def _reach(self, begin: int) -> int:
        """How many bytes to request at ``begin``."""
        follows = begin == self._begin + len(self._data)
        if self._opening:
            # Start small, then double: an index is read completely, whatever its size.
            self._ahead = min(MOST_BYTES, 2 * self._ahead) if follows else LEAST_BYTES
            return self._ahead
        if self._end is not None and begin < self._end:
            return min(MOST_BYTES, self._end - begin)
        if not follows:
            self._run_from = begin
        return min(MOST_BYTES, max(LEAST_BYTES, (begin - self._run_from) // 8))

    def _get(self, begin: int, end: int) -> bytes:
        """The bytes [begin, end). Raises MediaError."""
        if self._whole is None and self._backend.protocol in HTTP:
            data = _get_patiently(self.uri, lambda: self._from_server(begin, end))
            if data is not None:
                return data
            self._copy()
        if self._whole is None:
            return _get_patiently(self.uri, lambda: self._from_store(begin, end))
        return self._whole.read(begin, end)

    def _copy(self) -> WholeFile:
        """Copy the whole file from a server without range support. Raises MediaError."""
        whole = self._cache.whole(self._file) if self._is_told_apart else None
        if whole is None:
            whole = _get_patiently(self.uri, lambda: copied(self._backend))
        self._whole = whole
        self._check(whole.tag, whole.size_bytes if self._file[1] != "None" else None)
        if self._is_told_apart:
            self._cache.keep_whole(self._file, whole)
        return whole

    def _from_server(self, begin: int, end: int) -> bytes | None:
        """A range over HTTP; None from a server without range support."""
        answer = read_range(self._backend.filesystem, self._backend.path, begin, end)
        self._check(answer.tag.strip('"'), answer.size_bytes)
        if answer.data is not None and len(answer.data) != end - begin:
            raise OSError(f"the server sent {len(answer.data)} of {end - begin} bytes at {begin}")
        return answer.data

    def _check(self, tag: str, size_bytes: int | None) -> None:
        """Raise MediaError if an answer's tag or size differs from those at opening. Empty and None mean unknown."""
        if tag and self.tag and tag != self.tag:
            raise self._changed(f"its tag is {tag}, not {self.tag}")
        if size_bytes not in (None, self.size_bytes):
            raise self._changed(f"it has {size_bytes} bytes, not {self.size_bytes}")

    def _from_store(self, begin: int, end: int) -> bytes:
        data = bytes(self._backend.filesystem.cat_file(self._backend.path, start=begin, end=end))
        if len(data) == self.size_bytes != end - begin:
            # A backend without range support returns the whole file.
            data = data[begin:end]
        if len(data) != end - begin:
            raise OSError(f"the store sent {len(data)} of {end - begin} bytes at {begin}")
        return data

    def _changed(self, how: str) -> MediaError:
        return MediaError(
            f"{self.uri} changed while it was read: {how}; run again", uri=self.uri, kind="unreachable"
        )


def _get_patiently(uri: str, action: Callable[[], T]) -> T:
    """Call a backend with retries and return the result. Raises MediaError if it finally fails."""
    try:
        return patiently(action, replace(backends.PATIENCE, total_s=TOTAL_S))
    except BackendFailure as failure:
        if failure.kind == "missing":
            raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from failure
        kind: MediaKind = "denied" if failure.kind == "denied" else "unreachable"
        raise MediaError(failure.sentence(uri, deed="read"), uri=uri, kind=kind) from failure
