"""State of a run's videos and segments on the driver: planned, stored, failed, finished.

Pure bookkeeping: no Ray, no store. A video is finished when each of its segments is stored or has failed permanently.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from malmm.pipeline.schema.ids import failure_id
from malmm.pipeline.schema.records import PERMANENT_KINDS, Failure, Segment, Video
from malmm.pipeline.schema.rows import Carried
from malmm.pipeline.schema.video_plans import VideoPlan

__all__ = ["Ledger"]


_OPEN, _CLOSED, _PASSING = range(3)
_ID_BYTES = 12


@dataclass(slots=True)
class _Entry:
    """A video. Its segments are kept in arrays: a run may plan millions, which as objects would take seven times the
    memory, and the garbage collector would visit each again and again."""

    video: Video
    ids: bytes
    starts_s: array[float]
    ends_s: array[float]
    states: bytearray
    open: int
    stored: int
    finished: bool = False
    passing: int = 0
    reason: Failure | None = None

    def segment_ids(self) -> list[str]:
        ids = self.ids
        return [ids[at : at + _ID_BYTES].hex() for at in range(0, len(ids), _ID_BYTES)]

    def in_state(self, state: int) -> list[Segment]:
        video, last = self.video, len(self.states) - 1
        rows = enumerate(zip(self.segment_ids(), self.starts_s, self.ends_s, self.states, strict=True))
        return [
            Segment(key, video.video_id, video.uri, index, start_s, end_s, index == last)
            for index, (key, start_s, end_s, now) in rows
            if now == state
        ]

    def has(self, segment: Segment) -> bool:
        """Whether a segment belongs to this plan: the video may have changed and been planned again."""
        at = segment.index * _ID_BYTES
        return self.ids[at : at + _ID_BYTES].hex() == segment.segment_id


@dataclass
class Ledger:
    """The videos of a run. ``failures`` has every failed attempt, in the order of arrival."""

    failures: list[Failure] = field(default_factory=list)
    segments_total: int = 0
    segments_done: int = 0
    video_s_total: float = 0.0
    video_s_done: float = 0.0
    _videos_open: int = 0
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _touched: set[str] = field(default_factory=set)
    # By segment, "" for whole videos, then by the failure's id.
    _standing: dict[str, dict[str, Failure]] = field(default_factory=dict)
    _notes: dict[str, Failure] = field(default_factory=dict)

    def plan(self, plan: VideoPlan) -> int:
        """Add a video's plan; return how many of its segments are committed already. A repeated plan is ignored."""
        video, ids = plan.video, bytes.fromhex("".join(plan.segment_ids))
        before = self._entries.get(video.video_id)
        if before is not None and (before.ids, before.video) == (ids, video):
            return 0
        stored = sum(plan.stored)
        missing = len(plan.stored) - stored
        self._videos_open += bool(missing) - bool(before and before.open)
        self._entries[video.video_id] = _Entry(
            video,
            ids=ids,
            starts_s=array("d", plan.starts_s),
            ends_s=array("d", plan.ends_s),
            states=bytearray(_CLOSED if stored else _OPEN for stored in plan.stored),
            open=missing,
            stored=stored,
        )
        self._touched.add(video.video_id)
        self.segments_total += missing
        self.video_s_total += sum(
            end_s - start_s
            for start_s, end_s, stored in zip(plan.starts_s, plan.ends_s, plan.stored, strict=True)
            if not stored
        )
        return stored

    def has(self, video_id: str) -> bool:
        """Whether the video was planned."""
        return video_id in self._entries

    def stored(self, segment: Segment) -> bool:
        """Mark a segment as committed. Returns False if it was marked before."""
        self._standing.pop(segment.segment_id, None)
        return self._close(segment, stored=True)

    def failed(self, row: Carried) -> None:
        """Record a row's failure, if it has one. A failed segment is closed."""
        if row.failure is None:
            return
        self.failures.append(row.failure)
        self._standing.setdefault(row.failure.segment_id or "", {})[_key(row.failure)] = row.failure
        if row.segment is not None and self._close(row.segment, stored=False):
            entry = self._entries[row.segment.video_id]
            if row.failure.kind in PERMANENT_KINDS:
                entry.reason = entry.reason or row.failure
            else:
                entry.states[row.segment.index] = _PASSING
                entry.passing += 1

    def noted(self, row: Carried) -> None:
        """Record a problem of a row that is stored nevertheless."""
        if row.failure is not None:
            self.failures.append(row.failure)
            self._notes[_key(row.failure)] = row.failure

    def standing(self) -> list[Failure]:
        """Failures that no later attempt resolved, the last of each."""
        held = (*self._standing.values(), self._notes)
        return [failure for failures in held for failure in failures.values()]

    def reopen(self) -> list[Carried]:
        """Reopen the segments that failed for a transient reason, and return their rows."""
        reopened = []
        for entry in self._entries.values():
            if not entry.passing:
                continue
            segments = entry.in_state(_PASSING)
            self.segments_done -= entry.passing
            self.video_s_done -= _seconds(segments)
            self._videos_open += not entry.open
            entry.states = entry.states.replace(bytes([_PASSING]), bytes([_OPEN]))
            entry.open += entry.passing
            entry.passing = 0
            reopened += [Carried(entry.video, segment, None) for segment in segments]
        return reopened

    def lose_open(self, reason: str) -> None:
        """Record planned segments that never came back as failures to be retried."""
        for entry in self._entries.values():
            for segment in entry.in_state(_OPEN) if entry.open else []:
                self.failed(Carried(entry.video, segment, None).failed("index", "worker_lost", reason))

    def open_segments(self) -> list[Segment]:
        """Segments that are neither stored nor failed."""
        return [segment for entry in self._entries.values() for segment in entry.in_state(_OPEN)]

    def take_finished(self) -> list[tuple[Video, list[str]]]:
        """Videos finished since the last call, each with the ids of all its segments.

        A video without any stored segment is recorded as a failure instead.
        """
        done = []
        for key in sorted(self._touched):
            entry = self._entries[key]
            if entry.open or entry.passing or entry.finished:
                continue
            entry.finished = True
            if entry.stored:
                done.append((entry.video, entry.segment_ids()))
            elif entry.reason is not None:
                why = f"nothing of it could be stored: {entry.reason.message}"
                self.noted(Carried(entry.video, None, None).failed("index", entry.reason.kind, why))
        self._touched.clear()
        return done

    @property
    def videos_total(self) -> int:
        """Number of planned videos."""
        return len(self._entries)

    @property
    def videos_done(self) -> int:
        """Number of videos without an open segment."""
        return len(self._entries) - self._videos_open

    def _close(self, segment: Segment, *, stored: bool) -> bool:
        entry = self._entries[segment.video_id]
        if not entry.has(segment) or entry.states[segment.index] != _OPEN:
            return False
        entry.states[segment.index] = _CLOSED
        entry.open -= 1
        entry.stored += stored
        self._videos_open -= not entry.open
        self._touched.add(segment.video_id)
        self.segments_done += 1
        self.video_s_done += segment.end_s - segment.start_s
        return True


def _seconds(segments: Sequence[Segment]) -> float:
    return sum(segment.end_s - segment.start_s for segment in segments)


def _key(failure: Failure) -> str:
    return failure_id(failure.video_id, failure.segment_id, failure.stage)
