"""Decode: segments to sampled frames. One row a segment in, one row out. Runs on CPUs."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, decode_span_apart
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.schema.rows import DECODED, carried, rows_table, with_arrays

__all__ = ["decode_segments"]


def decode_segments(
    segments: pa.Table,
    *,
    fps: float,
    sampling: str = "rate",
    segment_s: float = 0.0,
    image_size: int,
    decoder: str,
    threads: int,
    limit_s: float = DECODE_LIMIT_S,
) -> Iterator[pa.Table]:
    """``PLANNED`` to ``DECODED``, one table a segment, so that no two segments' frames are held at once.

    ``sampling`` is one of ``malmm.pipeline.schema.config.SAMPLINGS``; with ``count`` each segment gives
    ``fps`` x ``segment_s`` frames.

    Decoders run in a process apart: a file that crashes one, or keeps it longer than ``limit_s`` seconds, fails alone.
    """
    for row in carried(segments):
        if row.segment is None or row.failure is not None:
            yield rows_table([row.columns()], DECODED)
            continue
        start_s, end_s = row.segment.start_s, row.segment.end_s
        count = round(fps * segment_s) if sampling == "count" else None
        try:
            span = decode_span_apart(
                row.segment.uri,
                start_s,
                end_s,
                count / (end_s - start_s) if count and end_s > start_s else fps,
                image_size,
                decoder=decoder,
                threads=threads,
                is_last=row.segment.is_last,
                keyframes=sampling == "keyframes",
                limit_s=limit_s,
            )
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
