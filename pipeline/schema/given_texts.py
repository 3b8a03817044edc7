"""Texts that no prompt was answered with: transcripts, subtitles and imported labels. Each has a span of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from malmm.pipeline.schema.ids import GIVEN, given_text_id
from malmm.pipeline.schema.stable_ids import stable_id
from malmm.pipeline.schema.tables import ANNOTATIONS, GIVEN_TASKS

__all__ = ["SOURCES", "TRANSCRIPT", "GivenRows", "GivenText", "Track"]

SOURCES = ("file", "model", "person")
"""What made a text: it was in a file, a model recognised it, or a person wrote it."""
TRANSCRIPT, _IMPORTED = GIVEN_TASKS[:2]


@dataclass(frozen=True)
class Track:
    """Texts of a video that belong together, such as its subtitles in one language.

    ``name`` is ``transcript`` for what is said, else what an import calls it. ``origin`` is the address of the file
    that held the texts, the name of the model that recognised them, or what an import says of it. ``language`` is a
    code such as ``de`` or ``pt-BR``, empty if unknown.
    """

    name: str = TRANSCRIPT
    source: str = "file"
    origin: str = ""
    language: str = ""

    @property
    def track_id(self) -> str:
        """Id of the track: the same in every video. Its texts have it as their ``prompt_version``."""
        return stable_id("track", self.name, self.source, self.origin, self.language)

    @property
    def task(self) -> str:
        """The task of its texts."""
        return TRANSCRIPT if self.name == TRANSCRIPT else _IMPORTED


@dataclass(frozen=True)
class GivenText:
    """A text about [start_s, end_s) of a video, on its own clock."""

    start_s: float
    end_s: float
    text: str
    speaker: str = ""
    score: float | None = None


@dataclass
class GivenRows:
    """Makes rows of ``annotations``. Numbers texts of one track and span in the order in which they come.

    ``fingerprints`` are those of the videos, by id. ``model`` is the model's name if one recognised the texts.
    """

    fingerprints: Mapping[str, str]
    mode: str = GIVEN
    model: str = ""
    _seen: Counter[tuple[str, str, float, float]] = field(default_factory=Counter)

    def of(self, texts: Iterable[tuple[str, Track, GivenText]]) -> pa.Table:
        """Rows of ``ANNOTATIONS`` for (video_id, track, text)."""
        now = datetime.now(UTC)
        return pa.Table.from_pylist(
            [self._row(video, track, text, now) for video, track, text in texts], schema=ANNOTATIONS
        )

    def _row(self, video: str, track: Track, text: GivenText, now: datetime) -> dict[str, Any]:
        key = (video, track.track_id, text.start_s, text.end_s)
        ordinal = self._seen[key]
        self._seen[key] += 1
        span_s = (text.start_s, text.end_s)
        return {
            "annotation_id": given_text_id(video, self.fingerprints[video], track.track_id, span_s, ordinal),
            "video_id": video,
            "segment_id": None,
            "start_s": text.start_s,
            "end_s": text.end_s,
            "task": track.task,
            "prompt_name": track.name,
            "prompt": "",
            "prompt_version": track.track_id,
            "text": text.text,
            "score": text.score,
            "label_scores": None,
            "mode": self.mode,
            "model": self.model,
            "created_at": now,
            "source": track.source,
            "origin": track.origin or None,
            "language": track.language or None,
            "speaker": text.speaker or None,
        }
