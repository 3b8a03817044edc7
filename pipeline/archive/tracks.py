"""The transcripts that videos have, and their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from malmm.pipeline.archive.moment_words import words_of
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.schema.given_texts import TRANSCRIPT
from malmm.pipeline.schema.tables import ANSWERS_ONLY

__all__ = ["StoredTrack", "TrackReader"]


@dataclass(frozen=True)
class StoredTrack:
    """A track of a stored video and the number of its texts."""

    track_id: str
    name: str
    source: str
    origin: str
    language: str
    texts: int


class TrackReader:
    """Reads the tracks of videos."""

    def __init__(self, tables: TableReader) -> None:
        self._tables = tables

    def names(self) -> set[str]:
        """Names of all texts with spans of their own: ``transcript``, and what imports are called."""
        return self._tables.ids("annotations", "prompt_name", [f"NOT ({ANSWERS_ONLY})"])

    def tracks(self, video_id: str) -> list[StoredTrack]:
        """A video's tracks of what is said, ordered by language and origin."""
        columns = ["prompt_version", "prompt_name", "source", "origin", "language"]
        rows = self._tables.rows(
            "annotations", [f"{equals('video_id', video_id)} AND task = '{TRANSCRIPT}'"], columns
        )
        counted = rows.group_by(columns).aggregate([("prompt_version", "count")]).to_pylist()
        found = [
            StoredTrack(
                row["prompt_version"],
                row["prompt_name"],
                row["source"] or "",
                row["origin"] or "",
                row["language"] or "",
                row["prompt_version_count"],
            )
            for row in counted
        ]
        return sorted(found, key=lambda track: (track.language, track.origin, track.track_id))

    def subtitled(self) -> set[str]:
        """Ids of videos with something said in them that no model recognised: subtitles, and imported transcripts."""
        given = f"task = '{TRANSCRIPT}' AND (source IS NULL OR source != 'model')"
        return self._tables.ids("annotations", "video_id", [given])

    def texts(self, video_id: str, track_id: str) -> list[dict[str, Any]]:
        """The texts of a video's track in time order: start_s, end_s, task, text (in words, of a record), speaker."""
        columns = ["start_s", "end_s", "task", "text", "speaker"]
        condition = f"{equals('video_id', video_id)} AND {equals('prompt_version', track_id)}"
        rows = self._tables.rows("annotations", [condition], columns)
        ordered = rows.sort_by([("start_s", "ascending"), ("end_s", "ascending")]).to_pylist()
        return [row | {"text": words_of(row)} for row in ordered]
