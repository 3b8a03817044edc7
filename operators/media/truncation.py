"""Detect truncated files from their own structure."""

from __future__ import annotations

import enum
from typing import IO

from malmm.operators.media.container_structure import EBML_MAGIC, MATROSKA_SEGMENT, boxes, elements, file_size
from malmm.operators.media.files import open_bytes
from malmm.pipeline.schema.errors import MediaError

__all__ = ["Wholeness", "cut_short", "wholeness"]

_ISO_BEGINNINGS = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# Bytes of a tag's header, and of the size after its content.
_FLV_TAG, _FLV_TRAILER = 11, 4


class Wholeness(enum.Enum):
    """Whether a file is complete, according to its structure."""

    WHOLE = "all that the file declares is there"
    CUT = "the file declares more than is there"
    UNKNOWN = "the format, or this file, does not say"


def wholeness(uri: str) -> Wholeness:
    """Whether an MP4, Matroska, AVI or FLV file is complete. Raises MediaError if it cannot be read."""
    with open_bytes(uri) as handle:
        size = file_size(handle)
        handle.seek(0)
        head = handle.read(12)
        if head[:4] == EBML_MAGIC:
            return _matroska(handle, size)
        if head[:4] == b"RIFF":
            return _riff(handle, size)
        if head[:3] == b"FLV":
            return _flash(handle, size)
        if head[4:8] in _ISO_BEGINNINGS:
            return _iso(handle, size)
    return Wholeness.UNKNOWN


def cut_short(uri: str) -> MediaError | None:
    """The error for a file without any decodable frame that lacks its index or its end; None for any other."""
    if wholeness(uri) is not Wholeness.CUT:
        return None
    if _is_segment(uri):
        return MediaError(
            f"{uri} is a segment of a stream, whose index lies in another file: put them together (the first file, "
            "such as init.mp4, and all segments in order), and index that",
            uri=uri,
            kind="not_a_video",
        )
    return MediaError(
        f"{uri} is cut short: what a player needs is missing at its end; copy it again from its source",
        uri=uri,
        kind="truncated",
    )


def _is_segment(uri: str) -> bool:
    """Whether an ISO file consists of whole fragments and has no index, as segments of HLS and DASH do."""
    with open_bytes(uri) as handle:
        size, end = file_size(handle), 0
        names = []
        for box in boxes(handle, 0, size):
            names.append(box.name)
            end = box.end or size
    return end == size and b"moof" in names and b"moov" not in names


def _iso(handle: IO[bytes], size: int) -> Wholeness:
    """Complete if the last box ends with the file and there is an index."""
    end, has_index = 0, False
    for box in boxes(handle, 0, size):
        end = box.end or size
        has_index = has_index or box.name == b"moov"
    if end > size or (end > 0 and not has_index):
        return Wholeness.CUT
    return Wholeness.WHOLE if end else Wholeness.UNKNOWN


def _matroska(handle: IO[bytes], size: int) -> Wholeness:
    """Complete if the segment ends with the file. The segment of a live or interrupted recording has no size: if then
    the last element ends with the file, it is unknown whether more should follow."""
    end: int | None = None
    for element in elements(handle, 0, size):
        if element.name == MATROSKA_SEGMENT and element.end is not None:
            return Wholeness.CUT if element.end > size else Wholeness.WHOLE
        end = element.end
    return Wholeness.CUT if end is None or end > size else Wholeness.UNKNOWN


def _riff(handle: IO[bytes], size: int) -> Wholeness:
    """Complete if every RIFF chunk ends within the file. Long AVI files have several; live ones declare size 0."""
    begin = 0
    while begin + 8 <= size:
        handle.seek(begin)
        head = handle.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF":
            break
        if not length:
            return Wholeness.UNKNOWN
        begin += 8 + length + length % 2
    return Wholeness.CUT if begin > size + 1 else Wholeness.WHOLE


def _flash(handle: IO[bytes], size: int) -> Wholeness:
    """Complete if the file ends with a tag and its size."""
    handle.seek(max(0, size - _FLV_TRAILER))
    last = int.from_bytes(handle.read(_FLV_TRAILER), "big")
    begin = size - _FLV_TRAILER - last
    if last < _FLV_TAG or begin < _FLV_TAG:
        return Wholeness.CUT
    handle.seek(begin + 1)
    held = int.from_bytes(handle.read(3), "big")
    return Wholeness.WHOLE if held + _FLV_TAG == last else Wholeness.CUT
