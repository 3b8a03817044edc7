"""Plan: cut videos into segments. One row a file in, one row out for each segment that is not done."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa

from malmm.operators.media.sampling import plan_spans
from malmm.pipeline.schema.ids import segment_id
from malmm.pipeline.schema.records import Failure, Segment, Video
from malmm.pipeline.schema.rows import PLANNED, Carried, carried, rows_table
from malmm.pipeline.schema.video_plans import VideoPlan, plans_table

__all__ = ["plan_segments", "segments_of"]


def segments_of(video: Video, recipe_id: str, segment_s: float, fps: float) -> list[Segment]:
    """The segments of a video, in time order and without gaps: from cut to cut, or ``segment_s`` seconds each."""
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


def plan_segments(
    videos: pa.Table,
    *,
    recipe_id: str,
    segment_s: float,
    fps: float,
    done: np.ndarray | None = None,
    note: Callable[[pa.Table, bool], object] | None = None,
) -> pa.Table:
    """``PROBED`` to ``PLANNED``: a row for each segment whose id is not in ``done`` (sorted ids of dtype S24).

    Before returning, calls ``note`` with the plans (a table of ``PLANS``), which include the failures of files that are
    not videos. Its second argument says whether segments follow, which must not be written before the archive exists.
    Without ``note``, the failures are returned as rows.
    """
    rows: list[Carried] = []
    plans: list[VideoPlan | Failure] = []
    for row in carried(videos):
        if row.failure is not None:
            plans.append(row.failure)
            if note is None:
                rows.append(row)
        elif row.video is not None:
            segments = segments_of(row.video, recipe_id, segment_s, fps)
            stored = _are_among([segment.segment_id for segment in segments], done)
            plans.append(VideoPlan.of(row.video, segments, stored))
            rows += [
                Carried(row.video, segment, None)
                for segment, is_stored in zip(segments, stored, strict=True)
                if not is_stored
            ]
    if note is not None and plans:
        note(plans_table(plans), bool(rows))
    return rows_table([row.columns() for row in rows], PLANNED)


def _are_among(ids: list[str], done: np.ndarray | None) -> list[bool]:
    if done is None or not len(done):
        return [False] * len(ids)
    wanted = np.array(ids, done.dtype)
    places = np.minimum(np.searchsorted(done, wanted), len(done) - 1)
    found: list[bool] = (done[places] == wanted).tolist()
    return found
