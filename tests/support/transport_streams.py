"""MPEG transport streams of which some packets are scrambled."""

from __future__ import annotations

import random
from collections.abc import Iterable

__all__ = ["PACKET_BYTES", "scramble", "video_packets"]

PACKET_BYTES = 188
# The packet identifier that ffmpeg gives a file's first stream.
_VIDEO = 0x100


def video_packets(data: bytes | bytearray) -> list[int]:
    """Where the packets of the video lie in a transport stream of ffmpeg's."""
    places = range(0, len(data), PACKET_BYTES)
    return [at for at in places if (data[at + 1] & 0x1F) << 8 | data[at + 2] == _VIDEO]


def scramble(data: bytearray, packets: Iterable[int]) -> None:
    """Call packets scrambled, with noise for their content."""
    noise = random.Random(3)
    for at in packets:
        data[at + 3] |= 0xC0
        begin = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
        data[begin : at + PACKET_BYTES] = noise.randbytes(at + PACKET_BYTES - begin)
