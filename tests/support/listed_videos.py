"""Archives that know of videos and hold nothing else of them, for what is stored beside their memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.tables import VIDEOS
from support.archive_rows import RECIPE, VECTOR_SIZE, WHEN

__all__ = ["knowing"]


def knowing(
    place: Path, *uris: Path | str, start_s: float = 0.0, duration_s: float = 10.0, fingerprint: str = "first"
) -> Archive:
    """The archive at ``place``, made if it is not there, with a row for each video."""
    archive = Archive.create_or_open(str(place), RECIPE, VECTOR_SIZE)
    row = {
        "fingerprint": fingerprint,
        "start_s": start_s,
        "duration_s": duration_s,
        "fps": 25.0,
        "width": 64,
        "height": 48,
        "codec": "h264",
        "metadata": "",
        "cuts": [],
        "recipe_id": RECIPE.recipe_id,
        "indexed_at": WHEN,
    }
    rows = [row | {"video_id": video_id(str(uri)), "uri": str(uri)} for uri in uris]
    archive.put_videos(pa.Table.from_pylist(rows, schema=VIDEOS))
    return archive
