"""Convert a decoded frame to the model's square picture, or to one in proportion."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from malmm.operators.media.side_data import display_matrix

__all__ = [
    "Orientation",
    "ProportionalPictures",
    "SquarePictures",
    "converted",
    "displayed_size",
    "orientation_of",
]

# Bicubic, as in BLIP's image processor; the flags ask for exact rounding and full chroma resolution.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_RGB: dict[str, Any] = {
    "format": "rgb24",
    "interpolation": SCALING,
    "dst_color_range": ColorRange.JPEG,
    "threads": 1,
}
# A pixel aspect ratio beyond this comes from a damaged header.
WIDEST_PIXEL = 16


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is oriented for display: transposed first, then flipped."""

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False

    @property
    def degrees(self) -> int:
        """Clockwise rotation for display, 0, 90, 180 or 270, apart from any mirroring."""
        if self.transpose:
            return 90 if self.flip_horizontal else 270
        return 180 if self.flip_vertical else 0

    @property
    def is_mirrored(self) -> bool:
        """Whether the orientation is not a rotation alone."""
        return self.transpose ^ self.flip_horizontal ^ self.flip_vertical

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of the picture [H, W, 3] as it is displayed."""
        if self.transpose:
            picture = picture.transpose(1, 0, 2)
        if self.flip_horizontal:
            picture = picture[:, ::-1]
        if self.flip_vertical:
            picture = picture[::-1]
        return picture


def converted(reformat: Callable[..., Any], frame: Any, **options: Any) -> Any:
    """A frame in another size or format, with PyAV's ``reformat``.

    As ffmpeg does, a frame whose colours are in a matrix that swscale lacks (YCgCo, ICtCp) is converted as one that
    names none. Raises FFmpegError for a frame that cannot be converted.
    """
    try:
        return reformat(frame, **options)
    except FFmpegError:
        return reformat(frame, **options, src_colorspace=Colorspace.ITU601)


def orientation_of(frame: Any) -> Orientation:
    """The orientation in a frame's display matrix, to the nearest quarter turn.

    Raises FFmpegError for a frame whose colour format cannot be converted.
    """
    # Reading side data puts a frame into a reference cycle, so that large pictures would wait for the garbage
    # collector. A small copy has the same side data.
    small = converted(VideoReformatter().reformat, frame, width=8, height=8, format="gray", threads=1)
    return _orientation(small)


def _orientation(frame: Any) -> Orientation:
    matrix = display_matrix(frame)
    if matrix is None:
        return Orientation()
    # The matrix is [[a, b, u], [c, d, v], [x, y, w]]: x' = a x + c y and y' = b x + d y.
    a, b, _, c, d = struct.unpack("=9i", matrix[:36])[:5]
    if abs(b) > abs(a):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


def displayed_size(frame: Any, aspect: Fraction | None, turned: Orientation) -> tuple[int, int]:
    """Width and height of a decoded frame as displayed: with square pixels (stretched in width) and rotated. ``aspect``
    is a stored pixel's width over its height; None or an implausible value counts as 1."""
    width, height = frame.width, frame.height
    if aspect is not None and 1 / WIDEST_PIXEL <= aspect <= WIDEST_PIXEL:
        width = max(1, round(width * aspect))
    return (height, width) if turned.transpose else (width, height)


class SquarePictures:
    """Turn the frames of one video into uint8 [size, size, 3] RGB: the whole picture squashed, upright."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._scaler = VideoReformatter()
        self._progressive = _Progressive()
        self._turned: Orientation | None = None

    def of(self, frame: Any) -> np.ndarray:
        """The picture of a decoded frame, with the display matrix applied.

        Raises FFmpegError for a frame whose colour format cannot be converted.
        """
        scaled = converted(
            self._scaler.reformat,
            self._progressive.of(frame),
            width=self.size,
            height=self.size,
            **_RGB,
        )
        if self._turned is None:
            self._turned = _orientation(scaled)
        return self._turned.apply(scaled.to_ndarray())


class ProportionalPictures:
    """Turn the frames of one video into uint8 [height, W, 3] RGB: the whole picture, upright, in the proportions of the
    first frame's stored pixels, as ffmpeg's ``scale=-1:HEIGHT`` has it."""

    def __init__(self, height: int) -> None:
        self.height = height
        self._scaler = VideoReformatter()
        self._progressive = _Progressive()
        self._turned = Orientation()
        self._size: tuple[int, int] | None = None

    def of(self, frame: Any) -> np.ndarray:
        """The picture of a decoded frame, with the display matrix applied.

        Raises FFmpegError for a frame whose colour format cannot be converted.
        """
        if self._size is None:
            self._turned = orientation_of(frame)
            width, height = displayed_size(frame, None, self._turned)
            upright = max(1, (2 * self.height * width + height) // (2 * height)), self.height
            self._size = upright[::-1] if self._turned.transpose else upright
        stored_width, stored_height = self._size
        scaled = converted(
            self._scaler.reformat,
            self._progressive.of(frame),
            width=stored_width,
            height=stored_height,
            **_RGB,
        )
        return self._turned.apply(scaled.to_ndarray())


class _Progressive:
    """Interlaced frames as progressive ones, which ffmpeg scales them as. swscale would scale each field by itself, and
    the small picture would be a comb of two."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[str, int, int] | None = None

    def of(self, frame: Any) -> Any:
        """The frame with the same pixels."""
        if not frame.interlaced_frame:
            return frame
        shape = (frame.format.name, frame.width, frame.height)
        if self._graph is None or shape != self._shape:
            self._graph, self._shape = Graph(), shape
            source = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            self._graph.link_nodes(
                source, self._graph.add("setfield", "prog"), self._graph.add("buffersink")
            ).configure()
        self._graph.vpush(frame)
        return self._graph.vpull()
