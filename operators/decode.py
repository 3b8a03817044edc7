"""Decode: segments to sampled frames. One row a segment in, one row out. Runs on CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, Sandbox, process_sandbox
from malmm.operators.media.span import SpanRequest
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import DECODED, carried, rows_table, with_arrays

__all__ = ["DecodeSettings", "decode_segments"]


@dataclass(frozen=True)
class DecodeSettings:
    """How all segments of a run are decoded.

    ``sampling`` is one of ``malmm.pipeline.schema.config.SAMPLINGS``; with ``count`` each segment has ``fps`` x
    ``segment_s`` frames. Decoding a segment may take ``limit_s`` seconds.
    """

    fps: float
    image_size: int
    decoder: str
    threads: int
    sampling: str = "rate"
    segment_s: float = 0.0
    limit_s: float = DECODE_LIMIT_S

    @property
    def most_frames(self) -> int | None:
        """The number of frames of every segment; None if it depends on the segment's length."""
        return round(self.fps * self.segment_s) if self.sampling == "count" else None

    def request(self, segment: Segment) -> SpanRequest:
        """The request to decode a segment."""
        length_s, count = segment.end_s - segment.start_s, self.most_frames
        return SpanRequest(
            segment.uri,
            segment.start_s,
            segment.end_s,
            count / length_s if count and length_s > 0 else self.fps,
            self.image_size,
            decoder=self.decoder,
            threads=self.threads,
            is_last=segment.is_last,
            keyframes=self.sampling == "keyframes",
        )


def decode_segments(
    segments: pa.Table, *, settings: DecodeSettings, sandbox: Sandbox | None = None
) -> Iterator[pa.Table]:
    """``PLANNED`` to ``DECODED``. Yields a table for each segment, so that only one segment's frames are in memory.

    Decoders run in ``sandbox``, by default this process's own: a file that crashes a decoder, or takes too long, fails
    alone.
    """
    sandbox = sandbox or process_sandbox()
    count = settings.most_frames
    for row in carried(segments):
        if row.segment is None or row.failure is not None:
            yield rows_table([row.columns()], DECODED)
            continue
        try:
            span = sandbox.decode(settings.request(row.segment), limit_s=settings.limit_s)
        except MediaError as error:
            yield rows_table([row.failed("decode", error.kind, str(error)).columns()], DECODED)
            continue
        except RuntimeError as error:
            yield rows_table([row.failed("decode", "unexpected", str(error)).columns()], DECODED)
            continue
        columns = row.columns() | {
            "timestamps_s": span.timestamps_s[:count].tolist(),
            "decoded_end_s": span.end_s,
            "problem": span.problem,
        }
        yield rows_table([with_arrays(columns, frames=span.frames[:count])], DECODED)
