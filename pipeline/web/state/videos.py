"""The archive's list of videos: filtered, sorted and paged, for very many videos.

Caches the five columns for filters and sorting until the table changes (some 30 MB for 100,000 videos). The rows of a
page are read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.filters import scope_of, videos_within
from malmm.pipeline.archive.joined import members_of
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.tables import ANSWERS_ONLY
from malmm.pipeline.web.api.problems import NotThere
from malmm.pipeline.web.api.response_models import VideoPage, VideoRow
from malmm.pipeline.web.display_names import media_type, name_of
from malmm.pipeline.web.state.live import LiveArchive

__all__ = ["Chosen", "VideoColumns", "VideoList"]

_COLUMNS = ["video_id", "uri", "start_s", "duration_s", "indexed_at"]


@dataclass(frozen=True)
class Chosen:
    """A filter: videos with these ids, ``text`` in their name, indexed in [since, until), in UTC by default, and with a
    moment that passes the filter ``where`` (``archive.filters``)."""

    video_ids: tuple[str, ...] = ()
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    where: str | None = None

    @property
    def all(self) -> bool:
        """Whether the filter selects every video."""
        return not (self.video_ids or self.text or self.since or self.until or self.where)


class VideoColumns:
    """The completed videos, latest first: a table of ``_COLUMNS``."""

    def __init__(self, rows: pa.Table) -> None:
        self.rows = rows.select(_COLUMNS).sort_by([("indexed_at", "descending")]).combine_chunks()

    @cached_property
    def _names(self) -> pa.Array:
        """Names of the videos, case-folded. Made at first use."""
        return pa.array([name_of(uri).casefold() for uri in self.rows["uri"].to_pylist()], pa.string())

    def ids(self, chosen: Chosen) -> list[str]:
        """Ids of the selected videos, latest first. ``where`` is left to the search."""
        return self._chosen(chosen)["video_id"].to_pylist()

    def part(
        self, chosen: Chosen, begin: int, end: int, within: Collection[str] | None = None
    ) -> tuple[list[str], int]:
        """Ids [begin, end) of the selected videos that are ``within`` some, and how many are selected in all."""
        rows = self._chosen(chosen)
        if within is not None:
            rows = rows.filter(pc.is_in(rows["video_id"], pa.array(list(within), pa.string())))
        return rows["video_id"].slice(begin, end - begin).to_pylist(), rows.num_rows

    def of(self, video_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Rows of those of the given videos that are done, by id."""
        found = self.rows.filter(pc.is_in(self.rows["video_id"], pa.array(video_ids, pa.string())))
        return {row["video_id"]: row for row in found.to_pylist()}

    def _chosen(self, chosen: Chosen) -> pa.Table:
        rows = self.rows
        masks = []
        if chosen.video_ids:
            masks.append(pc.is_in(rows["video_id"], pa.array(chosen.video_ids, pa.string())))
        if chosen.text:
            masks.append(pc.match_substring(self._names, chosen.text.casefold()))
        if chosen.since is not None:
            masks.append(pc.greater_equal(rows["indexed_at"], _scalar(chosen.since, rows)))
        if chosen.until is not None:
            masks.append(pc.less(rows["indexed_at"], _scalar(chosen.until, rows)))
        if not masks:
            return rows
        return rows.filter(pa.array(np.logical_and.reduce([np.asarray(mask) for mask in masks])))


class VideoList:
    """The completed videos. Thread-safe."""

    def __init__(self, live: LiveArchive) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._read: tuple[tuple[str, object], VideoColumns] | None = None

    def columns(self) -> VideoColumns:
        """The columns of ``videos`` as committed now. Raises ArchiveError."""
        reader = self._live.reader
        version = (reader.uri, reader.tables.version("videos"))
        with self._lock:
            if self._read is not None and self._read[0] == version:
                return self._read[1]
        columns = VideoColumns(reader.tables.rows("videos", columns=_COLUMNS))
        with self._lock:
            self._read = (version, columns)
        return columns

    def row(self, video_id: str) -> dict[str, Any]:
        """A video's row of ``videos``. Raises NotThere, also for unfinished and failed videos."""
        rows = self._live.reader.video_rows([video_id]).to_pylist()
        if not rows:
            raise NotThere("The archive holds no such video.")
        return dict(rows[0])

    def chosen_ids(self, chosen: Chosen) -> list[str] | None:
        """Ids of the selected videos, latest first, whatever ``where`` is; None for all."""
        named = replace(chosen, where=None)
        return None if named.all else self.columns().ids(named)

    def one(self, video_id: str) -> VideoRow:
        """A video as the API returns it. Raises NotThere."""
        return self._shown([self.row(video_id)])[0]

    def page(self, chosen: Chosen, offset: int, limit: int) -> VideoPage:
        """A page of videos, latest first."""
        end = offset + limit
        reader = self._live.reader
        within = videos_within(reader, scope_of(reader, chosen.where)) if chosen.where else None
        wanted, total = self.columns().part(chosen, offset, end, within)
        stored = self._live.reader.video_rows(wanted).to_pylist()
        rows = {row["video_id"]: row for row in stored}
        return VideoPage(
            total=total,
            # Skip a video that was pruned a moment ago.
            videos=self._shown([rows[video] for video in wanted if video in rows]),
            next=str(end) if end < total else None,
        )

    def _shown(self, rows: Sequence[dict[str, Any]]) -> list[VideoRow]:
        reader = self._live.reader
        ids = [row["video_id"] for row in rows]
        captions = _captions(reader, ids)
        archives = {} if members_of(reader) is None else reader.names_of(ids)
        fields = VideoRow.model_fields.keys()
        shown = []
        for row in rows:
            at = f"api/videos/{row['video_id']}"
            more: dict[str, Any] = {
                "name": name_of(row["uri"]),
                "caption": captions.get(row["video_id"]),
                "thumbnail": f"{at}/thumbnail",
                "media": f"{at}/media",
                "media_type": media_type(row["uri"]),
                "subtitles": f"{at}/captions.vtt",
                "archive": archives.get(row["video_id"]),
            }
            shown.append(VideoRow(**{name: value for name, value in row.items() if name in fields}, **more))
        return shown


def _captions(reader: ArchiveReader, video_ids: Sequence[str]) -> dict[str, str]:
    """Whole-video captions by video, the latest of each."""
    found: dict[str, tuple[datetime, str]] = {}
    conditions = [
        f"({part}) AND segment_id IS NULL AND prompt_name = '{CAPTION.name}' AND {ANSWERS_ONLY}"
        for part in is_in("video_id", video_ids)
    ]
    for row in reader.tables.rows("annotations", conditions, ["video_id", "text", "created_at"]).to_pylist():
        if row["video_id"] not in found or found[row["video_id"]][0] < row["created_at"]:
            found[row["video_id"]] = (row["created_at"], row["text"])
    return {video: text for video, (_, text) in found.items()}


def _scalar(time: datetime, rows: pa.Table) -> pa.Scalar:
    in_utc = time if time.tzinfo else time.replace(tzinfo=UTC)
    return pa.scalar(in_utc, rows.schema.field("indexed_at").type)
