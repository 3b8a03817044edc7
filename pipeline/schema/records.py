"""The Arrow schemas of all that is stored and of all that flows between operators, and the rows' identity.

Times are seconds on the video's own clock, which is what ``ffprobe`` prints as ``pts_time``. Arrays are
written with their shape in brackets.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from malmm.pipeline.schema.config import stable_id

__all__ = [
    "ANNOTATIONS",
    "FAILURES",
    "FORMAT",
    "PERMANENT_KINDS",
    "RECIPES",
    "RUNS",
    "SEGMENTS",
    "VIDEOS",
    "Failure",
    "Segment",
    "Video",
    "annotation_id",
    "failure_id",
    "memories_schema",
    "memory_id",
    "segment_id",
    "table_schemas",
    "video_id",
]

#: Kinds of failure that lie in the file and not in the circumstances.
PERMANENT_KINDS = frozenset(
    {
        "empty_file",
        "not_a_video",
        "no_video_stream",
        "no_frames",
        "truncated",
        "decode_error",
        "crashed",
        "timed_out",
        "too_large",
    }
)

#: Counts up when what an archive's tables hold changes so that older versions of this package would misread it.
FORMAT = 2

TIMESTAMP = pa.timestamp("us", tz="UTC")

VIDEOS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("cuts", pa.list_(pa.float64()), nullable=False),
        pa.field("recipe_id", pa.string(), nullable=False),
        pa.field("indexed_at", TIMESTAMP, nullable=False),
    ]
)

SEGMENTS = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("frame_count", pa.int32(), nullable=False),
        pa.field("recipe_id", pa.string(), nullable=False),
    ]
)

ANNOTATIONS = pa.schema(
    [
        pa.field("annotation_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("segment_id", pa.string()),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("prompt_name", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_version", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("label_scores", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("created_at", TIMESTAMP, nullable=False),
    ]
)

FAILURES = pa.schema(
    [
        pa.field("failure_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("segment_id", pa.string()),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("first_seen", TIMESTAMP, nullable=False),
        pa.field("last_seen", TIMESTAMP, nullable=False),
    ]
)

RECIPES = pa.schema(
    [
        pa.field("recipe_id", pa.string(), nullable=False),
        pa.field("recipe", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("format", pa.int32(), nullable=False),
        pa.field("created_at", TIMESTAMP, nullable=False),
    ]
)

#: Made when the first run is recorded, so an archive may have none.
RUNS = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("job", pa.string(), nullable=False),
        pa.field("kinds", pa.list_(pa.string()), nullable=False),
        pa.field("trigger", pa.string(), nullable=False),
        pa.field("scheduled_for", TIMESTAMP),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("started", TIMESTAMP, nullable=False),
        pa.field("updated", TIMESTAMP, nullable=False),
        pa.field("ended", TIMESTAMP),
        pa.field("status", pa.string(), nullable=False),
        pa.field("exit_code", pa.int32()),
        pa.field("counts", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("progress", pa.string(), nullable=False),
        pa.field("samples", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("process", pa.string(), nullable=False),
    ]
)


def memories_schema(vector_size: int) -> pa.Schema:
    """The ``memories`` table, one row a memory slot.

    ``vectors`` is a multivector: the slot's [32, vector_size] unit vectors, for cosine search with one
    query vector. ``tokens`` holds [N, C] float16 in C order as a blob that a scan does not read; its shape
    is in ``token_shape``. ``sizes`` [N] says how many frames each token position holds.
    """
    return pa.schema(
        [
            pa.field("memory_id", pa.string(), nullable=False),
            pa.field("segment_id", pa.string(), nullable=False),
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("slot", pa.int32(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            pa.field("timestamp_s", pa.float64(), nullable=False),
            pa.field("frame_count", pa.int32(), nullable=False),
            pa.field("vectors", pa.list_(pa.list_(pa.float16(), vector_size))),
            pa.field("tokens", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
            pa.field("token_shape", pa.list_(pa.int32(), 2), nullable=False),
            pa.field("sizes", pa.list_(pa.int32()), nullable=False),
            pa.field("thumbnail", pa.binary()),
        ]
    )


def table_schemas(vector_size: int) -> dict[str, pa.Schema]:
    """Every table of an archive by name."""
    return {
        "recipes": RECIPES,
        "videos": VIDEOS,
        "memories": memories_schema(vector_size),
        "annotations": ANNOTATIONS,
        "segments": SEGMENTS,
        "failures": FAILURES,
    }


def video_id(uri: str) -> str:
    """The identity of a source file; what it contains is its fingerprint."""
    return stable_id("video", uri)


def segment_id(video: str, fingerprint: str, recipe_id: str, start_s: float, end_s: float) -> str:
    """The identity of a unit of work: the same bytes, recipe and span give the same key in every run."""
    return stable_id("segment", video, fingerprint, recipe_id, f"{start_s:.6f}", f"{end_s:.6f}")


def memory_id(segment: str, slot: int) -> str:
    """The identity of a memory slot."""
    return f"{segment}-{slot:04d}"


def annotation_id(subject: str, prompt_version: str, model: str, mode: str) -> str:
    """The identity of a text. ``subject`` is a segment's id, or a video's with its fingerprint and recipe."""
    return stable_id("annotation", subject, prompt_version, model, mode)


def failure_id(video: str, segment: str | None, stage: str) -> str:
    """The identity of what could not be done: the same stage failing again is the same failure."""
    return stable_id("failure", video, segment or "", stage)


@dataclass(frozen=True)
class Failure:
    """One attempt that failed, at a segment or, without ``segment_id``, at a whole video.

    ``fingerprint`` is that of the file, empty where it could not be told.
    """

    video_id: str
    segment_id: str | None
    uri: str
    stage: str
    kind: str
    message: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Video:
    """A probed source file. ``width`` and ``height`` are as displayed, after rotation.

    ``metadata`` is what a manifest says of it, a JSON object, or empty. ``cuts`` are the times in seconds that part its
    segments where those follow its scenes, and empty where all are of one length.
    """

    video_id: str
    uri: str
    fingerprint: str
    start_s: float
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    metadata: str = ""
    cuts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cuts", tuple(self.cuts))


@dataclass(frozen=True)
class Segment:
    """A time span [start_s, end_s) of a video; the last one also has the frame at its end."""

    segment_id: str
    video_id: str
    uri: str
    index: int
    start_s: float
    end_s: float
    is_last: bool
