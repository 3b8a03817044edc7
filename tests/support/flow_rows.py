"""Rows as they flow between operators, made up or made by the stages before, without Ray."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from malmm.operators.plan_segments import segments_of
from malmm.pipeline.schema.config import CAPTION, Prompt
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure, Segment, Video
from malmm.pipeline.schema.rows import DECODED, Carried, rows_table, with_arrays
from support.models import random_frames

RECIPE_ID = "0123456789abcdef01234567"
PROMPTS = (
    CAPTION,
    Prompt("people", "How many people are there?"),
    Prompt("place", "Where is it?", task="classification", labels=("indoors", "outdoors")),
)
# A failure of an earlier stage, as every operator may meet it.
BROKEN = Carried(
    None, None, Failure("aa" * 12, None, "/videos/broken.mp4", "probe", "not_a_video", "no video")
)


def video_at(uri: str = "/videos/a.mp4", **changes: Any) -> Video:
    """A video of 12 seconds unless told."""
    fields: dict[str, Any] = {
        "video_id": video_id(uri),
        "uri": uri,
        "fingerprint": "first",
        "start_s": 0.0,
        "duration_s": 12.0,
        "fps": 24.0,
        "width": 96,
        "height": 64,
        "codec": "h264",
    }
    return Video(**(fields | changes))


def planned(video: Video, *, segment_s: float = 5.0, fps: float = 2.0) -> list[Carried]:
    """The rows of a video's segments."""
    return [Carried(video, segment, None) for segment in segments_of(video, RECIPE_ID, segment_s, fps)]


def failing_row(number: int = 0) -> Carried:
    """A segment that failed in an earlier stage."""
    row = planned(video_at(f"/videos/failing-{number}.mp4"))[0]
    return row.failed("decode", "no_frames", "gives no frame")


def decoded(row: Carried, frames: np.ndarray, *, problem: str | None = None) -> dict[str, Any]:
    """A row of ``DECODED`` with frames spread evenly over the segment."""
    segment = row.segment
    assert segment is not None
    step = (segment.end_s - segment.start_s) / max(1, len(frames))
    columns = row.columns() | {
        "timestamps_s": [segment.start_s + index * step for index in range(len(frames))],
        "decoded_end_s": segment.end_s,
        "problem": problem,
    }
    return with_arrays(columns, frames=frames)


def decoded_segments(lengths: Sequence[int], *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of ``DECODED``, of videos of their own, with so many frames each."""
    rows = []
    for number, length in enumerate(lengths):
        row = planned(video_at(f"/videos/{seed}-{number}.mp4"))[number % 2]
        rows.append(decoded(row, random_frames(10 * seed + number, length)))
    return rows


def decoded_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return rows_table(rows, DECODED)


def segment_in(row: dict[str, Any]) -> Segment:
    return Segment(**row["segment"])


def picture(jpeg: bytes) -> Image.Image:
    """A thumbnail, decoded."""
    assert jpeg[:2] == b"\xff\xd8"
    image = Image.open(io.BytesIO(jpeg))
    image.load()
    assert image.format == "JPEG"
    return image
