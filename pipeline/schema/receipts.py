"""The receipt of a segment whose rows are written and not yet committed, which workers hand to the driver."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from malmm.pipeline.schema.records import arrow_fields
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS

__all__ = ["RECEIPT", "Receipt"]


@dataclass(frozen=True)
class Receipt:
    """One segment's rows, written but not yet committed. ``vars`` of it is a value of the column type ``RECEIPT``.

    ``memories`` holds Lance's FragmentMetadata as JSON; ``segment`` and ``annotations`` are the segment's row and its
    texts as Arrow IPC messages. Their schemas are left out, since ``tables`` has them: a schema is half of a stream of
    one row, and most of the time that it takes to read one.
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
