"""Read the display matrix from a frame's side data, whatever other side data the frame has.

PyAV lists a frame's side data under an enum, and raises ValueError for every type that FFmpeg has and the enum lacks:
28 (LCEVC enhancement), 29 (the view of MV-HEVC, in spatial video of telephones), 31 (EXIF of motion JPEG), and any that
later releases of FFmpeg add.
"""

from __future__ import annotations

from typing import Any

from av.sidedata.sidedata import Type

__all__ = ["display_matrix"]


def display_matrix(frame: Any) -> bytes | None:
    """The 36 bytes of a frame's display matrix in the machine's byte order; None if the frame has none."""
    try:
        side_data = frame.side_data
    except ValueError:
        _name_every_type()
        side_data = frame.side_data
    matrix = side_data.get(Type.DISPLAYMATRIX)
    return None if matrix is None else bytes(matrix)


def _name_every_type() -> None:
    """Make PyAV's enum create a member, such as ``TYPE_29``, for each unknown type.

    This changes only the process that meets such a frame, which is the sandbox's child.
    """

    def unnamed(enum: Any, value: object) -> Any:
        if not isinstance(value, int):
            return None
        member = object.__new__(enum)
        member._name_ = f"TYPE_{value}"
        member._value_ = value
        return enum._value2member_map_.setdefault(value, member)

    Type._missing_ = classmethod(unnamed)  # type: ignore[assignment,method-assign]
