"""Parse the structure of container files (ISO boxes and EBML elements) without a demuxer.

FFmpeg skips parts that it cannot use. Whether a file is truncated or encrypted can be seen in those parts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

__all__ = ["EBML_MAGIC", "MATROSKA_SEGMENT", "Part", "boxes", "elements", "file_size", "find_boxes"]

EBML_MAGIC = b"\x1a\x45\xdf\xa3"
MATROSKA_SEGMENT = b"\x18\x53\x80\x67"
# No real file has more parts; noise that looks like a container may.
MOST_PARTS = 100_000


@dataclass(frozen=True)
class Part:
    """A box or an element: its name and the position of its content. ``end`` may lie beyond the end of the file; None
    if the file does not say."""

    name: bytes
    begin: int
    end: int | None


def file_size(handle: IO[bytes]) -> int:
    """The size of an open file in bytes."""
    return handle.seek(0, os.SEEK_END)


def boxes(handle: IO[bytes], begin: int, end: int) -> Iterator[Part]:
    """Yield the ISO boxes (MP4, MOV, 3GP) between two positions, in order.

    The last may reach beyond ``end``: then the file is truncated, or not of this format.
    """
    for _ in range(MOST_PARTS):
        if begin + 8 > end:
            return
        handle.seek(begin)
        header = handle.read(16)
        if len(header) < 8:
            return
        size, name = struct.unpack(">I4s", header[:8])
        head = 8
        if size == 1 and len(header) == 16:
            head, size = 16, struct.unpack(">Q", header[8:])[0]
        stop = begin + size if size else end
        if stop < begin + head:
            yield Part(name, begin + head, end + 1)
            return
        yield Part(name, begin + head, stop)
        begin = stop


def find_boxes(handle: IO[bytes], begin: int, end: int, path: tuple[bytes, ...]) -> Iterator[Part]:
    """Yield all boxes at a path of names, such as ``(b"moov", b"trak")``."""
    for box in boxes(handle, begin, end):
        if box.name == path[0] and box.end is not None:
            if len(path) == 1:
                yield box
            else:
                yield from find_boxes(handle, box.begin, min(box.end, end), path[1:])


def elements(handle: IO[bytes], begin: int, end: int) -> Iterator[Part]:
    """Yield the EBML elements (Matroska, WebM) between two positions, in order.

    After an element of unknown size, as in live recordings, come the elements of its content.
    """
    for _ in range(MOST_PARTS):
        if begin + 2 > end:
            return
        handle.seek(begin)
        header = handle.read(12)
        name_length = _length(header)
        if name_length is None or name_length > 4 or len(header) <= name_length:
            return
        size_length = _length(header[name_length:])
        if size_length is None or len(header) < name_length + size_length:
            return
        marked = int.from_bytes(header[name_length : name_length + size_length], "big")
        mask = (1 << 7 * size_length) - 1
        content = begin + name_length + size_length
        if marked & mask == mask:
            yield Part(header[:name_length], content, None)
            begin = content
        else:
            yield Part(header[:name_length], content, content + (marked & mask))
            begin = content + (marked & mask)


def _length(data: bytes) -> int | None:
    """Return the length in bytes of a variable-length number from its first byte; None if that is invalid."""
    if not data or not data[0]:
        return None
    return 9 - data[0].bit_length()
