"""Detect scrambled packets in MPEG transport streams, as in pay TV.

Each packet says in the clear whether its payload is scrambled (ISO/IEC 13818-1, section 2.4.3.3), so no decoder is
needed. A demuxer drops scrambled packets without a word, so that a recording seems to end where scrambling begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from malmm.operators.media.container_structure import file_size
from malmm.operators.media.files import MediaFile, open_bytes
from malmm.operators.media.ranges import RangeReader
from malmm.pipeline.schema.errors import MediaError

__all__ = ["begins_scrambled", "scrambled", "scrambled_in_part"]

# Bytes from packet to packet: as broadcast, on discs with a time before each, and with error correction.
_STEPS = (188, 192, 204)
_SYNC = 0x47
# A stream counts as scrambled from this number of scrambled packets on, and by its beginning from this share on.
_FEW_PACKETS, _MOST = 8, 0.5
# A recording may be scrambled for its first seconds. From this share on it counts as encrypted as a whole.
_SHARE = 1 / 8
# Pieces of at least so many bytes, 32 packets, are read, evenly spread over the file.
_LEAST_BYTES = 32 * 188


@dataclass(frozen=True)
class _Look:
    """``places`` pieces of at most ``most_bytes`` are read, together about ``share`` of the file."""

    places: int
    share: float
    most_bytes: int

    def pieces(self, size_bytes: int) -> Iterator[tuple[int, int]]:
        """Where the pieces of a file of this size begin and end."""
        length = min(max(int(size_bytes * self.share / self.places), _LEAST_BYTES), self.most_bytes)
        if size_bytes <= self.places * length:
            yield from ((begin, min(begin + length, size_bytes)) for begin in range(0, size_bytes, length))
            return
        for place in range(self.places):
            begin = (size_bytes - length) * place // (self.places - 1)
            yield begin, begin + length


_LOOK = _Look(places=16, share=1 / 20, most_bytes=1 << 17)
_CLOSER = _Look(places=64, share=1 / 5, most_bytes=1 << 16)


def begins_scrambled(head: bytes) -> bool:
    """Whether ``head``, a file's first bytes, is a transport stream with a stream that is mostly scrambled."""
    filled, scrambled_packets = _counts(head)
    return bool(((scrambled_packets >= _FEW_PACKETS) & (scrambled_packets > _MOST * filled)).any())


def scrambled(file: MediaFile, stream_id: int) -> MediaError | None:
    """The error for a transport stream of which an eighth or more of one stream is scrambled; None for any other.

    Reads a twentieth of the file, at most 2 MiB, in 16 pieces. ``stream_id`` is the packet identifier (PID). Raises
    MediaError if the file cannot be read.
    """
    filled, found = _looked_at(file, stream_id, _LOOK)
    if found < max(_FEW_PACKETS, _SHARE * filled):
        return None
    part = (
        f"{found / filled:.0%} of its transport packets are scrambled"
        if found < filled
        else "scrambled packets"
    )
    return MediaError(
        f"{file.uri} is encrypted ({part}): index a copy that is not", uri=file.uri, kind="encrypted"
    )


def scrambled_in_part(file: MediaFile, stream_id: int, start_s: float, end_s: float) -> MediaError | None:
    """The error for a span that could not be decoded whole, if any part of the stream is scrambled; else None.

    Reads a fifth of the file, at most 4 MiB, in 64 pieces. Raises MediaError if the file cannot be read.
    """
    _, found = _looked_at(file, stream_id, _CLOSER)
    if found < _FEW_PACKETS:
        return None
    return MediaError(
        f"{file.uri} is encrypted in part (scrambled transport packets) and cannot be decoded whole between "
        f"{start_s:.1f} s and {end_s:.1f} s: index a copy that is not",
        uri=file.uri,
        kind="encrypted",
    )


def _looked_at(file: MediaFile, stream_id: int, look: _Look) -> tuple[int, int]:
    """The numbers of a stream's packets with a payload, and of those that are scrambled, in pieces of the file."""
    filled = found = 0
    with open_bytes(file.uri, file.cache) as handle:
        for begin, end in look.pieces(file_size(handle)):
            handle.seek(begin)
            if isinstance(handle, RangeReader):
                handle.settled(end)
            filled_by_id, found_by_id = _counts(handle.read(end - begin))
            filled += int(filled_by_id[stream_id])
            found += int(found_by_id[stream_id])
    return filled, found


def _counts(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """By packet identifier, the numbers [8192] of packets with a payload and of scrambled ones; 0 for other data."""
    packets = _packets(data)
    stream_ids = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
    is_filled = (packets[:, 3] & 0x10) != 0
    is_scrambled = is_filled & ((packets[:, 3] & 0xC0) != 0)
    filled, found = (
        np.bincount(stream_ids[chosen], minlength=1 << 13) for chosen in (is_filled, is_scrambled)
    )
    return filled, found


def _packets(data: bytes) -> np.ndarray:
    """The beginnings [N, 4] of the whole packets in a piece of a transport stream; none if it is something else."""
    values = np.frombuffer(data, np.uint8)
    for step in _STEPS:
        count = len(values) // step - 1
        if count < 2:
            continue
        columns = values[: count * step].reshape(count, step)
        # A piece may begin within a packet, and some packets may be damaged.
        first = int(np.argmax((columns == _SYNC).sum(axis=0)))
        packets = values[first : first + count * step].reshape(count, step)[:, :4]
        whole = packets[packets[:, 0] == _SYNC]
        if len(whole) > 0.9 * count:
            return whole
    return np.empty((0, 4), np.uint8)
