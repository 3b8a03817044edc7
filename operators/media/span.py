"""A span of a video: the request to decode it, and the result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["DecodedSpan", "SpanRequest"]


@dataclass(frozen=True)
class SpanRequest:
    """A request for the sampled frames of [start_s, end_s) of a video, at ``fps`` a second, each squashed to a square
    of ``image_size`` pixels, or with ``squash`` false scaled to that height in proportion.

    ``decoder`` is ``av`` or ``decord``. ``is_last`` includes the end of the span, at which the last frame of a video
    may lie. With ``keyframes`` only key frames are decoded, which is several times faster; from a span without key
    frames the first frame is taken. With ``cells`` (ascending numbers of the cells of 1 / ``fps`` seconds, from
    0 at ``start_s`` on) there is one frame for each of these cells and no other: a cell in which no frame begins shows
    the frame before it, as players do, and so do cells after the end of the file.

    Raises ConfigError for invalid values.
    """

    uri: str
    start_s: float
    end_s: float
    fps: float
    image_size: int
    decoder: str = "av"
    threads: int = 1
    is_last: bool = False
    keyframes: bool = False
    cells: tuple[int, ...] | None = None
    squash: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s) and self.end_s >= self.start_s):
            raise ConfigError(f"cannot decode from {self.start_s} s to {self.end_s} s")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"cannot sample {self.fps} frames a second: use a rate above 0")
        if self.image_size < 1 or self.threads < 1:
            raise ConfigError(
                f"cannot decode to pictures of {self.image_size} pixels with {self.threads} threads"
            )
        if self.decoder not in ("av", "decord"):
            raise ConfigError(f"--decoder {self.decoder!r}: av or decord")
        if self.keyframes and self.decoder != "av":
            raise ConfigError("--keyframes needs --decoder av: decord cannot decode key frames alone")
        if not self.squash and self.decoder != "av":
            raise ConfigError("pictures are scaled in proportion by --decoder av alone")
        if self.cells is not None:
            # From the sandbox's messages they come as a list.
            object.__setattr__(self, "cells", tuple(self.cells))
            if self.decoder != "av" or self.keyframes:
                raise ConfigError("single frames are chosen by --decoder av alone, and not among key frames")
            if not self.cells or list(self.cells) != sorted(set(self.cells)) or self.cells[0] < 0:
                raise ConfigError(f"frames to choose are ascending numbers from 0 on, not {self.cells[:5]}")


@dataclass(frozen=True, eq=False)
class DecodedSpan:
    """The sampled frames of a span.

    ``frames`` is uint8 [T, size, size, 3] RGB, or [T, size, W, 3] in proportion, and ``timestamps_s`` float64 [T] on
    the video's own clock. ``problem`` is None if the span was decoded completely, else one sentence; ``end_s`` is the
    time up to which the span could be decoded.
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
