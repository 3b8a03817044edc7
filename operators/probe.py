"""Probe: read each file's headers. One row a file in, one row out: a video, or a failure."""

from __future__ import annotations

import pyarrow as pa

from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, Sandbox, process_sandbox
from malmm.operators.media.scenes import choose_cuts
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure, Video
from malmm.pipeline.schema.rows import PROBED, Carried, rows_table

__all__ = ["probe_files"]


def probe_files(
    files: pa.Table,
    *,
    min_segment_s: float = 0.0,
    segment_s: float = 0.0,
    limit_s: float = DECODE_LIMIT_S,
    sandbox: Sandbox | None = None,
) -> pa.Table:
    """``FILES`` to ``PROBED``. Reads headers and first frames only.

    With ``min_segment_s`` it also reads all key frames, for at most ``limit_s`` seconds a file, and chooses cuts at
    scene changes, for segments of ``min_segment_s`` to ``segment_s`` seconds.

    Files are read in ``sandbox``, by default this process's own.
    """
    sandbox = sandbox or process_sandbox()
    rows = []
    for file in files.to_pylist():
        uri = file["uri"]
        identity = video_id(uri)
        try:
            info = sandbox.probe(uri)
            cuts: list[float] = []
            if min_segment_s and info.duration_s > min_segment_s:
                changes = sandbox.scene_changes(uri, limit_s=limit_s)
                cuts = choose_cuts(info.start_s, info.duration_s, changes, min_segment_s, segment_s)
        except (MediaError, RuntimeError) as error:
            kind = error.kind if isinstance(error, MediaError) else "unexpected"
            failure = Failure(identity, None, uri, "probe", kind, str(error), file["fingerprint"])
            rows.append(Carried(None, None, failure).columns())
            continue
        video = Video(
            video_id=identity,
            uri=uri,
            fingerprint=file["fingerprint"],
            start_s=info.start_s,
            duration_s=info.duration_s,
            fps=info.fps,
            width=info.width,
            height=info.height,
            codec=info.codec,
            metadata=file["metadata"] or "",
            cuts=tuple(cuts),
        )
        rows.append(Carried(video, None, None).columns())
    return rows_table(rows, PROBED)
