"""Detect encrypted video from a file's structure. A decoder would return grey noise or errors.

Nothing is decrypted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import IO, Any

from malmm.operators.media.container_structure import (
    EBML_MAGIC,
    MATROSKA_SEGMENT,
    elements,
    file_size,
    find_boxes,
)
from malmm.operators.media.files import open_bytes
from malmm.operators.media.scrambling import begins_scrambled
from malmm.pipeline.schema.errors import MediaError

__all__ = ["check_encryption", "encrypted_unreadable"]

_ENTRIES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_ENCRYPTED_ENTRIES = {b"encv": "Common Encryption", b"drmi": "FairPlay"}
# The box of a fragment that says how its samples are encrypted.
_SAMPLES = (b"moof", b"traf", b"senc")
# Bytes before the boxes in a sample description, and in a visual sample entry.
_STSD_BYTES, _ENTRY_BYTES = 8, 78

_TRACKS = b"\x16\x54\xae\x6b"
_TRACK_TYPE, _VIDEO = b"\x83", b"\x01"
_ENCODINGS, _ENCODING, _ENCRYPTION = b"\x6d\x80", b"\x62\x40", b"\x50\x35"

# Stream types in a transport stream's program map table: H.264 with encrypted samples.
_SAMPLE_AES = {0xDB: "Apple's sample AES"}
# How many bytes at a file's beginning are looked at.
_LOOK_BYTES = 1 << 20

# The object of an ASF header, and those in it that say how the content is encrypted, of three generations.
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_ENCRYPTIONS = tuple(
    map(
        bytes.fromhex,
        (
            "fbb3112223bdd211b4b700a0c955fc6e",
            "14e68a292226174cb935dae07ee9289c",
            "338505438169e6499b74ad12cb86d58c",
        ),
    )
)

_SEGMENT_SUFFIXES = frozenset((".ts", ".m2ts", ".mts", ".m4s", ".cmfv"))
_BLOCK = 16
# Pearson's statistic of 256 equally frequent bytes is 255, give or take 23.
_NOISE_CHI2, _NOISE_BYTES = 390.0, 1 << 12
_KEY = re.compile(rb"#EXT-X-(?:SESSION-)?KEY:[^\r\n]*METHOD=(?!NONE)([A-Z0-9-]+)")


def check_encryption(uri: str, handle: IO[bytes], formats: Iterable[str], stream: Any) -> None:
    """Raise MediaError of kind ``encrypted`` if the file declares its video encrypted.

    ``formats`` are FFmpeg's names for the container and ``stream`` is PyAV's stream. The handle's position is restored.
    """
    here = handle.tell()
    try:
        found: str | None = None
        if "mp4" in formats:
            found = _iso(handle)
        elif "matroska" in formats:
            found = _matroska(handle)
        elif "asf" in formats:
            found = _asf(handle)
        elif "mpegts" in formats:
            found = _SAMPLE_AES.get(_stream_type(stream))
    finally:
        handle.seek(here)
    if found is not None:
        raise _encrypted(uri, found)


def _stream_type(stream: Any) -> int:
    """A transport stream's stream type, which FFmpeg stores in the codec tag."""
    try:
        return ord(stream.codec_tag[0])
    except UnicodeDecodeError as error:
        # PyAV decodes tags as text.
        return error.object[0]


def encrypted_unreadable(uri: str) -> MediaError | None:
    """The error for a file that cannot be read because the whole file, or its packets, are encrypted; None if there is
    no sign of that."""
    with open_bytes(uri) as handle:
        size = file_size(handle)
        handle.seek(0)
        head = handle.read(_LOOK_BYTES)
        if head.startswith(EBML_MAGIC):
            found = _matroska(handle)
        elif head.startswith(_ASF_HEADER):
            found = _asf(handle)
        else:
            found = _iso(handle) or _fragment(handle)
    if found is not None:
        return _encrypted(uri, found)
    key = _KEY.search(head) if head.startswith(b"#EXTM3U") else None
    if key is not None:
        return _encrypted(uri, f"a playlist of segments with {key[1].decode()}")
    if begins_scrambled(head):
        return _encrypted(uri, "scrambled transport packets")
    suffix = PurePosixPath(uri.partition("?")[0]).suffix.lower()
    if suffix in _SEGMENT_SUFFIXES and size % _BLOCK == 0 and _is_noise(head):
        return _encrypted(uri, "it looks like an HLS segment under AES-128: whole blocks of noise")
    return None


def _encrypted(uri: str, how: str) -> MediaError:
    return MediaError(f"{uri} is encrypted ({how}): index a copy that is not", uri=uri, kind="encrypted")


def _iso(handle: IO[bytes]) -> str | None:
    size = file_size(handle)
    for description in find_boxes(handle, 0, size, _ENTRIES):
        end = min(description.end or size, size)
        for name, how in _ENCRYPTED_ENTRIES.items():
            for entry in find_boxes(handle, description.begin + _STSD_BYTES, end, (name,)):
                schemes = find_boxes(handle, entry.begin + _ENTRY_BYTES, entry.end or end, (b"sinf", b"schm"))
                scheme = next(schemes, None)
                if scheme is None:
                    return how
                handle.seek(scheme.begin + 4)
                return f"{how}, {handle.read(4).decode('latin-1')}"
    return None


def _asf(handle: IO[bytes]) -> str | None:
    handle.seek(len(_ASF_HEADER))
    length = min(int.from_bytes(handle.read(8), "little"), _LOOK_BYTES)
    handle.seek(0)
    header = handle.read(length)
    return "Windows Media DRM" if any(name in header for name in _ASF_ENCRYPTIONS) else None


def _fragment(handle: IO[bytes]) -> str | None:
    """Of a fragment whose index lies in another file, such as a segment of HLS or DASH."""
    samples = next(find_boxes(handle, 0, file_size(handle), _SAMPLES), None)
    return None if samples is None else "Common Encryption of its samples"


def _matroska(handle: IO[bytes]) -> str | None:
    size = file_size(handle)
    for segment in elements(handle, 0, size):
        if segment.name != MATROSKA_SEGMENT:
            continue
        for part in elements(handle, segment.begin, min(segment.end or size, size)):
            if part.name == _TRACKS and part.end is not None:
                tracks = elements(handle, part.begin, min(part.end, size))
                found = any(_is_encrypted_video(handle, track.begin, track.end or size) for track in tracks)
                return "Matroska ContentEncryption" if found else None
    return None


def _is_encrypted_video(handle: IO[bytes], begin: int, end: int) -> bool:
    is_video = is_encrypted = False
    for part in elements(handle, begin, end):
        if part.name == _TRACK_TYPE:
            handle.seek(part.begin)
            is_video = handle.read(1) == _VIDEO
        elif part.name == _ENCODINGS and part.end is not None:
            for encoding in elements(handle, part.begin, part.end):
                if encoding.name == _ENCODING and encoding.end is not None:
                    inside = elements(handle, encoding.begin, encoding.end)
                    is_encrypted = is_encrypted or any(each.name == _ENCRYPTION for each in inside)
    return is_video and is_encrypted


def _is_noise(head: bytes) -> bool:
    """Whether all byte values are equally frequent, as in cipher text."""
    if len(head) < _NOISE_BYTES:
        return False
    each = len(head) / 256
    return sum((head.count(bytes([value])) - each) ** 2 for value in range(256)) / each < _NOISE_CHI2
