"""Plan: videos into segments. One row a video in, one row out for each segment that is not done."""

from __future__ import annotations

from itertools import pairwise

import pyarrow as pa

from malmm.operators.media.sampling import plan_spans
from malmm.pipeline.schema.ids import segment_id
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import PLANNED, Carried, rows_table

__all__ = ["plan_segments", "segments_of"]


def segments_of(video: Video, recipe_id: str, segment_s: float, fps: float) -> list[Segment]:
    """The segments of a video, which tile it in time order: from cut to cut, or ``segment_s`` seconds each."""
    if video.cuts:
        bounds = [video.start_s, *video.cuts, video.start_s + video.duration_s]
        spans = list(pairwise(bounds))
    else:
        spans = plan_spans(video.start_s, video.duration_s, segment_s, fps)
    return [
        Segment(
            segment_id=segment_id(video.video_id, video.fingerprint, recipe_id, start_s, end_s),
            video_id=video.video_id,
            uri=video.uri,
            index=index,
            start_s=start_s,
            end_s=end_s,
            is_last=index == len(spans) - 1,
        )
        for index, (start_s, end_s) in enumerate(spans)
    ]


def plan_segments(videos: pa.Table, *, recipe_id: str, segment_s: float, fps: float) -> pa.Table:
    """``TO_PLAN`` to ``PLANNED``."""
    rows = []
    for row in videos.to_pylist():
        video, done = Video(**row["video"]), set(row["done"])
        rows += [
            Carried(video, segment, None).columns()
            for segment in segments_of(video, recipe_id, segment_s, fps)
            if segment.segment_id not in done
        ]
    return rows_table(rows, PLANNED)
