"""The receipt type: what a worker returns to the driver for a segment whose rows are written but not yet committed."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from malmm.pipeline.schema.records import arrow_fields
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS

__all__ = ["RECEIPT", "Receipt"]


@dataclass(frozen=True)
class Receipt:
    """One segment's rows, written but not yet committed. ``vars`` of it is a value of the column type ``RECEIPT``.

    ``memories`` is Lance's FragmentMetadata as JSON; ``segment`` and ``annotations`` are the segment's row and its
    texts as Arrow IPC messages. They come without their schemas, which are in ``tables``: for one row, a schema is half
    of the bytes and most of the reading time.
    """

    segment_id: str
    video_id: str
    memories: tuple[str, ...]
    memory_count: int
    annotations: bytes
    annotation_count: int
    segment: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "memories", tuple(self.memories))

    def segment_rows(self) -> pa.RecordBatch:
        """The row of ``segments``, a batch of one row."""
        return pa.ipc.read_record_batch(self.segment, SEGMENTS)

    def annotation_rows(self) -> pa.RecordBatch:
        """The rows of ``annotations``."""
        return pa.ipc.read_record_batch(self.annotations, ANNOTATIONS)


RECEIPT = pa.struct([field.with_nullable(True) for field in arrow_fields(Receipt)])
