"""Visual tokens as an archive stores them: in float16, or in 8 bits with a float16 scale for each token.

Whatever reads tokens, online or from an archive, reads float16: an online answer comes from the same numbers as a later
one. In 8 bits a token [C] is int8 numbers times its scale, the smallest float16 number that keeps the token's largest
number within 127 of them. A number is then off by half the scale at most, before the product is rounded to float16.

Shape suffixes: S slots, N tokens, L layers where a family has several, C channels.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from malmm.pipeline.schema.rows import array_at

__all__ = ["dequantized", "quantized", "tokens_at"]

_LARGEST = 127


def quantized(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [..., C] of any floating type as int8 [..., C] and scales float16 [...]."""
    wide = tokens.astype(np.float32)
    largest = np.abs(wide).max(axis=-1)
    scales = np.minimum(largest / _LARGEST, np.finfo(np.float16).max).astype(np.float16)
    too_small = scales.astype(np.float32) * _LARGEST < largest
    scales = np.where(too_small, np.nextafter(scales, np.float16(np.inf)), scales)
    scales = np.minimum(scales, np.finfo(np.float16).max)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    numbers = np.rint(wide / divisors[..., None]).clip(-_LARGEST, _LARGEST)
    return numbers.astype(np.int8), scales


def dequantized(numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Tokens float16 [..., C] of int8 [..., C] and scales float16 [...]."""
    return (numbers.astype(np.float32) * scales.astype(np.float32)[..., None]).astype(np.float16)


def tokens_at(rows: pa.Table, index: int) -> np.ndarray:
    """The tokens of a row that flows between operators, float16 [S, N, C] or [S, N, L, C], however it holds them."""
    if "token_scales" not in rows.column_names or not rows["token_scales"][index].is_valid:
        return array_at(rows, "tokens", index, np.float16)
    numbers = array_at(rows, "tokens", index, np.int8)
    return dequantized(numbers, array_at(rows, "token_scales", index, np.float16))
