"""What the API answers with. Times are seconds on the video's own clock; addresses are relative to the page's."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

__all__ = [
    "Annotation",
    "Card",
    "Failed",
    "Growth",
    "Health",
    "JobRun",
    "MemorySlot",
    "Overview",
    "Results",
    "SegmentRow",
    "Session",
    "VideoPage",
    "VideoRow",
]


class Health(BaseModel):
    """That the server answers."""

    status: str


class Session(BaseModel):
    """Whether the visitor may come in, and whether that takes a token."""

    open: bool
    token_needed: bool


class VideoRow(BaseModel):
    """A video. ``start_s`` is when its first frame is shown, which players count from."""

    video_id: str
    name: str
    uri: str
    start_s: float
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    metadata: str
    indexed_at: datetime
    caption: str | None
    thumbnail: str
    media: str
    media_type: str
    subtitles: str


class VideoPage(BaseModel):
    """Some videos; ``next`` is the cursor of those that follow, null at the end."""

    total: int
    videos: list[VideoRow]
    next: str | None


class SegmentRow(BaseModel):
    """A segment [start_s, end_s) and its caption."""

    segment_id: str
    index: int
    start_s: float
    end_s: float
    frame_count: int
    caption: str | None


class MemorySlot(BaseModel):
    """A memory slot: its span, its middle frame's time, and how many sampled frames it holds."""

    memory_id: str
    segment_id: str
    slot: int
    start_s: float
    end_s: float
    timestamp_s: float
    frame_count: int
    thumbnail: str


class Annotation(BaseModel):
    """A text of a segment or, without ``segment_id``, of the whole video."""

    annotation_id: str
    segment_id: str | None
    start_s: float
    end_s: float
    task: str
    prompt_name: str
    prompt: str
    text: str
    score: float | None
    mode: str
    model: str
    created_at: datetime


class Failed(BaseModel):
    """What could not be done, and why."""

    video_id: str
    segment_id: str | None
    name: str
    stage: str
    kind: str
    message: str
    attempts: int
    last_seen: datetime


class Card(BaseModel):
    """A moment that was found. ``similarity`` is the cosine with the query where vectors found it."""

    video_id: str
    name: str
    segment_id: str | None
    start_s: float
    end_s: float
    timestamp_s: float
    video_start_s: float
    score: float
    similarity: float | None
    signals: list[str]
    caption: str | None
    text: str | None
    thumbnail: str | None


class Results(BaseModel):
    """A page of moments, best first; ``next`` is the cursor of the page that follows, null at the end."""

    moments: list[Card]
    next: str | None


class Growth(BaseModel):
    """How much was stored by the end of a span of time that begins at ``at``."""

    at: datetime
    videos: int
    hours: float


class JobRun(BaseModel):
    """A run of a job."""

    run_id: str
    job: str
    status: str
    started: datetime
    ended: datetime | None
    counts: dict[str, float]


class Overview(BaseModel):
    """The archive as a whole. ``stored_bytes`` is null while it is being counted."""

    archive: str
    model: str
    notice: str | None
    videos: int
    hours: float
    segments: int
    memories: int
    annotations: int
    failures: int
    stored_bytes: int | None
    growth: list[Growth]
    runs: list[JobRun]
    failed: list[Failed]
