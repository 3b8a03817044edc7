"""Response models of the API. Times are seconds on the video's own clock; addresses are relative to the page's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel

__all__ = [
    "Annotation",
    "ArchiveRow",
    "Card",
    "Explanation",
    "Facet",
    "FacetValue",
    "Facets",
    "Failed",
    "FoundVideo",
    "Growth",
    "Health",
    "JobRun",
    "LeftOut",
    "MemorySlot",
    "Overview",
    "Results",
    "SegmentRow",
    "Session",
    "Span",
    "TranscriptTrack",
    "VideoPage",
    "VideoRow",
    "spans_of",
]


class Health(BaseModel):
    """The server is up."""

    status: str


class Session(BaseModel):
    """Whether the visitor has access, whether access needs a token, and what the token says of the visitor."""

    open: bool
    token_needed: bool
    name: str | None
    may_review: bool


class Span(BaseModel):
    """An unbroken span [start_s, end_s)."""

    start_s: float
    end_s: float


def spans_of(spans: Sequence[tuple[float, float]] | None) -> list[Span] | None:
    """Pairs of seconds as spans."""
    return None if spans is None else [Span(start_s=start, end_s=end) for start, end in spans]


class VideoRow(BaseModel):
    """A video. ``start_s`` is the time of its first frame, from which players count.

    ``archive`` is the name of its archive if several are served, else null.
    """

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
    archive: str | None


class VideoPage(BaseModel):
    """A page of videos; ``next`` is the cursor of the following page, null at the end."""

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
    """A memory slot: its span, its middle frame's time, and the number of sampled frames merged into it.

    ``spans`` are the spans that it covers in archives whose slots merge what is not adjacent, else null; then
    [start_s, end_s) is their hull.
    """

    memory_id: str
    segment_id: str
    slot: int
    start_s: float
    end_s: float
    timestamp_s: float
    frame_count: int
    spans: list[Span] | None
    thumbnail: str


class Annotation(BaseModel):
    """A text of a segment, of the whole video if ``segment_id`` is null, or of a span of its own.

    The last are those with task ``transcript``, ``imported`` or ``moment``: they alone have a ``track_id``, and may
    have an origin, a language and a speaker.
    """

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
    source: str | None
    origin: str | None
    language: str | None
    speaker: str | None
    track_id: str | None


class TranscriptTrack(BaseModel):
    """A transcript of a video: the subtitles that it came with in one language, or its recognised speech.

    ``source`` is ``file``, ``model`` or ``person``. ``subtitles`` is the address of its texts as WebVTT.
    """

    track_id: str
    label: str
    source: str
    language: str
    texts: int
    subtitles: str


class Failed(BaseModel):
    """A failure of a video or segment."""

    video_id: str
    segment_id: str | None
    name: str
    stage: str
    kind: str
    message: str
    attempts: int
    last_seen: datetime


class Explanation(BaseModel):
    """What each signal gave a moment: its places in both lists, from 1, and what they add to the score.

    ``threshold`` is the similarity from which on the search's best slot is relevant.
    """

    similarity: float | None
    threshold: float | None
    is_relevant: bool | None
    vector_rank: int | None
    vector_score: float
    word_rank: int | None
    word_score: float
    score: float
    parts: dict[str, float]


class Card(BaseModel):
    """A search result. ``similarity`` is the cosine with the query, null if vectors did not find it.

    ``spans`` are the spans of a result that has several, else null; then [start_s, end_s) is their hull.
    ``archive`` is the name of its archive if several are served, else null.
    """

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
    spans: list[Span] | None
    archive: str | None
    explanation: Explanation | None = None


class FoundVideo(BaseModel):
    """A video as a search result: its best moments, and how many of it were found."""

    video_id: str
    name: str
    found: int
    moments: list[Card]


class FacetValue(BaseModel):
    """A value, how many moments have it, and the filter that leaves them."""

    value: str
    count: int
    where: str


class Facet(BaseModel):
    """The most frequent values of a column among the moments found; ``others`` moments have less frequent ones."""

    name: str
    values: list[FacetValue]
    others: int


class Facets(BaseModel):
    """How the ``moments`` best moments of a search are spread."""

    moments: int
    facets: list[Facet]


class LeftOut(BaseModel):
    """An archive of several that takes no part, and why."""

    name: str
    archive: str
    reason: str


class Results(BaseModel):
    """A page of moments, best first; ``next`` is the cursor of the following page, null at the end.

    ``left_out`` are those of several archives that were not searched.
    """

    moments: list[Card]
    next: str | None
    left_out: list[LeftOut]


class Growth(BaseModel):
    """Videos and hours stored by the end of the time step that begins at ``at``."""

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


class ArchiveRow(BaseModel):
    """One of the archives served: its size, and the places from which its videos may be played."""

    name: str
    archive: str
    model: str
    videos: int
    memories: int
    media_roots: list[str]


class Overview(BaseModel):
    """Overview of the archive, or of several served as one. ``stored_bytes`` is null until it is counted."""

    archive: str
    archives: list[ArchiveRow]
    left_out: list[LeftOut]
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
