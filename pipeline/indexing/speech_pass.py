"""Which spans of an archive's videos are not transcribed yet, and committing what is said in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.given_texts import Added
from malmm.pipeline.archive.passes import Pass
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.fail_fast import FailFast
from malmm.pipeline.schema.given_texts import GivenRows, GivenText, Track
from malmm.pipeline.schema.ids import RECOGNISED
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import PLANNED, Carried, carried, rows_table
from malmm.pipeline.schema.stable_ids import stable_id

__all__ = ["SPAN_S", "SpeechCommits", "speech_passes", "speech_work"]

SPAN_S = 600.0
"""Length of a span of sound that is one piece of work. The spans of a video are the same in every run."""

_COMMIT_EVERY_S = 3.0


def speech_passes(
    videos: Iterable[Video], fingerprint: str, language: str, done: set[str]
) -> dict[Pass, Carried]:
    """The spans that are not transcribed with a model of this fingerprint, as rows whose segments they are.

    Without a ``language`` the model finds it, which is another pass than with one.
    """
    found = {}
    for video in videos:
        count = max(1, int(-(-video.duration_s // SPAN_S)))
        for number in range(count):
            start_s = video.start_s + number * SPAN_S
            end_s = min(start_s + SPAN_S, video.start_s + video.duration_s)
            version = stable_id(fingerprint, language)
            each = Pass(video.video_id, video.fingerprint, f"speech {number}", version)
            if each.pass_id not in done and end_s > start_s:
                span = Segment(
                    each.pass_id, video.video_id, video.uri, number, start_s, end_s, number == count - 1
                )
                found[each] = Carried(video, span, None)
    return found


def speech_work(passes: dict[Pass, Carried]) -> list[pa.Table]:
    """Blocks of ``PLANNED``, one a span: each is minutes of work."""
    return [rows_table([row.columns()], PLANNED) for row in passes.values()]


@dataclass
class SpeechCommits:
    """Receives rows of ``TRANSCRIBED`` and commits their texts every few seconds, then the passes that made them.

    ``model`` is the name of the model, as texts say it, and ``language`` what is spoken, if that was said. A span that
    is transcribed again, by other weights of the same name or after a commit that was cut short, takes the place of
    what it had. ``problems`` are sentences about spans that failed.
    """

    archive: Archive
    model: str
    passes: Sequence[Pass]
    tell: Callable[[int, int], None]
    language: str = ""
    done: int = 0
    added: Added = field(default_factory=Added)
    problems: list[str] = field(default_factory=list)
    _texts: list[tuple[str, Track, GivenText]] = field(default_factory=list)
    _fingerprints: dict[str, str] = field(default_factory=dict)
    _finished: list[Pass] = field(default_factory=list)
    _gone: list[tuple[str, str, float, float]] = field(default_factory=list)
    _alike: FailFast = field(default_factory=FailFast)

    def go(self, blocks: Iterable[pa.Table | None]) -> None:
        """Receive all blocks. If interrupted, commits what is ready.

        Raises WorkerError if row after row fails at the same line (``FailFast``).
        """
        by_id = {each.pass_id: each for each in self.passes}
        last_commit = time.monotonic()
        try:
            for block in blocks:
                if block is not None:
                    self._take(block, by_id)
                if time.monotonic() - last_commit >= _COMMIT_EVERY_S:
                    self._commit()
                    last_commit = time.monotonic()
                self.tell(self.done + len(self._finished), len(self.problems))
        finally:
            self._commit()

    def _take(self, block: pa.Table, by_id: dict[str, Pass]) -> None:
        for index, row in enumerate(carried(block)):
            if row.failure is not None or row.segment is None or row.video is None:
                failure = row.failure
                said = failure.message if failure else "a span was lost"
                uri = failure.uri if failure else ""
                self.problems.append(said if uri in said else f"{uri}: {said}")
                self._alike.see(failure)
                continue
            self._alike.see(None)
            problem = block["problem"][index].as_py()
            if problem:
                self.problems.append(problem)
            video = row.video
            self._fingerprints[video.video_id] = video.fingerprint
            texts = [self._text(video, each) for each in block["utterances"][index].as_py()]
            tracks = {track.track_id for _, track, _ in texts}
            if self.language:
                tracks.add(self._track(self.language).track_id)
            span_s = row.segment.start_s, row.segment.end_s
            self._texts += texts
            self._gone += [(video.video_id, track, *span_s) for track in sorted(tracks)]
            self._finished.append(by_id[row.segment.segment_id])

    def _text(self, video: Video, said: dict[str, Any]) -> tuple[str, Track, GivenText]:
        track = self._track(said["language"] or "")
        return video.video_id, track, GivenText(said["start_s"], said["end_s"], said["text"])

    def _track(self, language: str) -> Track:
        return Track(source="model", origin=self.model, language=language)

    def _commit(self) -> None:
        texts, gone, finished = self._texts, self._gone, self._finished
        self._texts, self._gone, self._finished = [], [], []
        rows = GivenRows(self._fingerprints, mode=RECOGNISED, model=self.model).of(texts)
        self.added += self.archive.replace_spans(rows, gone)
        self.archive.finish_passes(finished)
        self.done += len(finished)
