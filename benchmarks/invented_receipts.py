"""Receipts of invented segments, for measuring the driver without workers."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.ids import annotation_id
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS

__all__ = ["invented_receipt"]


def invented_receipt(segment: Segment, recipe_id: str, *, frames: int) -> Receipt:
    """A receipt like those of ``write_rows``, for a segment with one text and no memory. Does not read the archive."""
    keys = {
        "segment_id": segment.segment_id,
        "video_id": segment.video_id,
        "start_s": segment.start_s,
        "end_s": segment.end_s,
    }
    done = keys | {"index": segment.index, "frame_count": frames, "recipe_id": recipe_id}
    text = keys | {
        "annotation_id": annotation_id(segment.segment_id, CAPTION.version, "none", "online"),
        "task": CAPTION.task,
        "prompt_name": CAPTION.name,
        "prompt": CAPTION.text,
        "prompt_version": CAPTION.version,
        "text": "a red circle moves to the left, then a blue square stays where it is",
        "mode": "online",
        "model": "debug",
        "created_at": datetime.now(UTC),
    }
    row, texts = (
        pa.RecordBatch.from_pylist([each], schema=schema).serialize().to_pybytes()
        for each, schema in ((done, SEGMENTS), (text, ANNOTATIONS))
    )
    return Receipt(segment.segment_id, segment.video_id, (), 0, texts, 1, row)
