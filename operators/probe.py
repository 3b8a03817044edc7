"""Probe: what each file is. One row a file in, one row out: a video, or why it is none."""

from __future__ import annotations

import pyarrow as pa

from malmm.operators.media.apart import probe_apart
from malmm.pipeline.errors import MediaError
from malmm.pipeline.flow import PROBED, Carried, rows_table
from malmm.pipeline.records import Failure, Video, video_id

__all__ = ["probe_files"]


def probe_files(files: pa.Table) -> pa.Table:
    """``FILES`` to ``PROBED``. Reads headers and first frames only."""
    rows = []
    for file in files.to_pylist():
        uri = file["uri"]
        identity = video_id(uri)
        try:
            info = probe_apart(uri)
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
        )
        rows.append(Carried(video, None, None).columns())
    return rows_table(rows, PROBED)
