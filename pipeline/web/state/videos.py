"""The archive's list of videos, kept until its table changes: filtered, sorted and cut into pages."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from malmm.pipeline.archive.location import lance_errors, open_dataset
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.web.api.problems import NotThere
from malmm.pipeline.web.api.shapes import VideoPage, VideoRow
from malmm.pipeline.web.display_names import media_type, name_of
from malmm.pipeline.web.state.live import LiveArchive

__all__ = ["Chosen", "VideoList"]


@dataclass(frozen=True)
class Chosen:
    """Which videos: those named, of a name that contains ``text``, indexed in [since, until). Days are UTC's."""

    video_ids: tuple[str, ...] = ()
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def all(self) -> bool:
        """Whether it leaves nothing out."""
        return not (self.video_ids or self.text or self.since or self.until)

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether a row of ``videos`` is among them."""
        return (
            (not self.video_ids or row["video_id"] in self.video_ids)
            and self.text.casefold() in name_of(row["uri"]).casefold()
            and (self.since is None or row["indexed_at"] >= _in_utc(self.since))
            and (self.until is None or row["indexed_at"] < _in_utc(self.until))
        )


class VideoList:
    """Videos that are done, by id, the latest first. Safe to use from several threads."""

    def __init__(self, live: LiveArchive) -> None:
        self._live = live
        self._lock = threading.Lock()
        self._read: tuple[tuple[str, int], dict[str, dict[str, Any]]] | None = None

    def rows(self) -> dict[str, dict[str, Any]]:
        """Rows of ``videos`` by id, as they are committed now. Raises ArchiveError."""
        reader = self._live.reader
        dataset = open_dataset(reader.uri, "videos")
        version = (reader.uri, dataset.version if dataset is not None else 0)
        with self._lock:
            if self._read is not None and self._read[0] == version:
                return self._read[1]
        rows = sorted(reader.videos().to_pylist(), key=lambda row: row["indexed_at"], reverse=True)
        by_id = {row["video_id"]: row for row in rows}
        with self._lock:
            self._read = (version, by_id)
        return by_id

    def row(self, video_id: str) -> dict[str, Any]:
        """A video's row. Raises NotThere: begun and failed videos are not listed."""
        found = self.rows().get(video_id)
        if found is None:
            raise NotThere("The archive holds no such video.")
        return found

    def chosen_ids(self, chosen: Chosen) -> list[str] | None:
        """Ids of the videos chosen; None for all."""
        if chosen.all:
            return None
        return [row["video_id"] for row in self.rows().values() if chosen.holds(row)]

    def one(self, video_id: str) -> VideoRow:
        """A video as the API shows it. Raises NotThere."""
        return self._shown([self.row(video_id)])[0]

    def page(self, chosen: Chosen, offset: int, limit: int) -> VideoPage:
        """Some videos, the latest first."""
        rows = [row for row in self.rows().values() if chosen.holds(row)]
        end = offset + limit
        return VideoPage(
            total=len(rows),
            videos=self._shown(rows[offset:end]),
            next=str(end) if end < len(rows) else None,
        )

    def _shown(self, rows: Sequence[dict[str, Any]]) -> list[VideoRow]:
        captions = _captions(self._live.reader, [row["video_id"] for row in rows])
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
            }
            shown.append(VideoRow(**{name: value for name, value in row.items() if name in fields}, **more))
        return shown


def _captions(reader: ArchiveReader, video_ids: Sequence[str]) -> dict[str, str]:
    """Whole-video captions by video, the latest of each."""
    dataset = open_dataset(reader.uri, "annotations")
    found: dict[str, tuple[datetime, str]] = {}
    if dataset is None:
        return {}
    columns = ["video_id", "text", "created_at"]
    with lance_errors(reader.uri, "read table 'annotations' of"):
        for part in is_in("video_id", video_ids):
            condition = f"({part}) AND segment_id IS NULL AND prompt_name = '{CAPTION.name}'"
            for row in dataset.to_table(columns=columns, filter=condition).to_pylist():
                if row["video_id"] not in found or found[row["video_id"]][0] < row["created_at"]:
                    found[row["video_id"]] = (row["created_at"], row["text"])
    return {video: text for video, (_, text) in found.items()}


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
