"""What decoding a span gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["DecodedSpan"]


@dataclass(frozen=True, eq=False)
class DecodedSpan:
    """The sampled frames of a span.

    ``frames`` is uint8 [T, size, size, 3] RGB and ``timestamps_s`` float64 [T] on the video's own clock.
    ``problem`` is None when all that was expected was decoded, else one sentence; ``end_s`` is how far
    the span could be decoded.
    """

    frames: np.ndarray
    timestamps_s: np.ndarray
    problem: str | None
    end_s: float

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(
                f"frames are uint8 [T, size, size, 3], not {self.frames.dtype} {self.frames.shape}"
            )
        if self.timestamps_s.shape != self.frames.shape[:1]:
            raise ValueError(f"{self.frames.shape[0]} frames with timestamps {self.timestamps_s.shape}")

    def __repr__(self) -> str:
        return (
            f"DecodedSpan(frames={list(self.frames.shape)}, end_s={self.end_s:g}, problem={self.problem!r})"
        )
