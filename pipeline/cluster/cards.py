"""What is known of graphics cards by Ray's names of them: their speed and their memory."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CARDS", "UNKNOWN", "Card"]


@dataclass(frozen=True)
class Card:
    """Dense half precision in TFLOP/s and memory, by the maker's data sheet.

    Of cards of one name that differ, ``memory_bytes`` is that of the largest.
    """

    tflops: float
    memory_bytes: float


_GB = 1e9

CARDS = {
    "T4": Card(65, 16 * _GB),
    "V100": Card(125, 32 * _GB),
    "A10G": Card(125, 24 * _GB),
    "L4": Card(121, 24 * _GB),
    "L40S": Card(362, 48 * _GB),
    "A100": Card(312, 80 * _GB),
    "A100-40G": Card(312, 40 * _GB),
    "A100-80G": Card(312, 80 * _GB),
    "H20": Card(148, 141 * _GB),
    "H100": Card(989, 96 * _GB),
    "H200": Card(989, 141 * _GB),
    "B200": Card(2250, 192 * _GB),
    "B300": Card(2250, 288 * _GB),
}
#: A card that is not in the table, or whose name Ray does not know.
UNKNOWN = Card(989, float("inf"))
