"""Videos, segments and failures: the records that are stored in tables and flow between operators.

They are declared only here: ``arrow_fields`` derives the Arrow columns of the tables and of the rows. Times are seconds
on the video's own clock, as ``ffprobe`` prints them as ``pts_time``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import pyarrow as pa

__all__ = ["PERMANENT_KINDS", "Failure", "Segment", "Video", "arrow_fields"]

#: Kinds of failure whose cause is in the file itself, so that another attempt would fail too.
PERMANENT_KINDS = frozenset(
    {
        "empty_file",
        "not_a_video",
        "no_video_stream",
        "no_frames",
        "truncated",
        "decode_error",
        "crashed",
        "timed_out",
        "too_large",
        "encrypted",
    }
)


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a segment, or at a whole video if ``segment_id`` is None.

    ``fingerprint`` is the file's, empty if unknown. ``trace`` is the end of the traceback of an unexpected exception in
    an operator.
    """

    video_id: str
    segment_id: str | None
    uri: str
    stage: str
    kind: str
    message: str
    fingerprint: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Video:
    """A probed source file. ``width`` and ``height`` are as displayed, after rotation.

    ``metadata`` is a JSON object from a manifest, or empty. ``cuts`` are the times in seconds between its segments if
    they follow scenes, and empty if all segments have one length.
    """

    video_id: str
    uri: str
    fingerprint: str
    start_s: float
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    metadata: str = ""
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cuts", tuple(self.cuts))


@dataclass(frozen=True)
class Segment:
    """A time span [start_s, end_s) of a video; the last one also has the frame at its end."""

    segment_id: str
    video_id: str
    uri: str
    index: int
    start_s: float
    end_s: float
    is_last: bool


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    str | None: pa.string(),
    float: pa.float64(),
    int: pa.int32(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    tuple[float, ...]: pa.list_(pa.float64()),
    tuple[str, ...]: pa.list_(pa.string()),
}


def arrow_fields(record: type, *names: str) -> list[pa.Field]:
    """The Arrow fields of a record's attributes: of those in ``names``, in that order, or of all.

    A field is nullable if its attribute may be None.
    """
    hints = get_type_hints(record)
    return [
        pa.field(name, _ARROW_TYPES[hints[name]], nullable=hints[name] == str | None)
        for name in names or [field.name for field in fields(record)]
    ]
