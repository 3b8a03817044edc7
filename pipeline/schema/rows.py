"""The rows that flow between operators, as Arrow schemas.

Every row names its video and, once planned, its segment. A row that failed carries a failure instead of the next
stage's columns, passes the other stages unchanged, and reaches the driver with its reason: no row is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from malmm.pipeline.schema.receipt_type import RECEIPT
from malmm.pipeline.schema.records import Failure, Segment, Video, arrow_fields
from malmm.pipeline.schema.tables import SPANS

__all__ = [
    "ANSWERED",
    "ASKED",
    "AUDIBLE",
    "DECODED",
    "ENCODED",
    "FILES",
    "PICKED",
    "PLANNED",
    "PROBED",
    "RECEIPTS",
    "REPLAYED",
    "TOLD",
    "TO_REPLAY",
    "TO_SAMPLE",
    "TRANSCRIBED",
    "Carried",
    "array_at",
    "carried",
    "rows_table",
    "with_arrays",
]


def _struct(record: type) -> pa.StructType:
    """A record as a column. All fields are nullable, since Ray joins blocks with and without the record."""
    return pa.struct([field.with_nullable(True) for field in arrow_fields(record)])


_VIDEO, _SEGMENT, _FAILURE = _struct(Video), _struct(Segment), _struct(Failure)
_SLOTS = pa.list_(
    pa.struct(
        [
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("timestamp_s", pa.float64()),
            ("frame_count", pa.int32()),
            ("spans", SPANS),
            ("thumbnail", pa.binary()),
        ]
    )
)
_SHAPE = pa.list_(pa.int32())
_CARRIED = [("video", _VIDEO), ("segment", _SEGMENT), ("failure", _FAILURE)]

# list: one row a file
FILES = pa.schema([("uri", pa.string()), ("fingerprint", pa.string()), ("metadata", pa.string())])
# probe: one row a file, a video or a failure
PROBED = pa.schema([("video", _VIDEO), ("failure", _FAILURE)])
# plan: one row a segment
PLANNED = pa.schema(_CARRIED)
# decode: uint8 frames [T, H, W, 3] in C order and their times; `problem` says what could not be decoded
DECODED = pa.schema(
    [
        *_CARRIED,
        ("frames", pa.large_binary()),
        ("frames_shape", _SHAPE),
        ("timestamps_s", pa.list_(pa.float64())),
        ("decoded_end_s", pa.float64()),
        ("problem", pa.string()),
    ]
)
# encode: memory and, for K prompts, query outputs float32 [K, Q, D]
ENCODED = pa.schema(
    [
        *_CARRIED,
        ("frame_count", pa.int32()),
        ("decoded_end_s", pa.float64()),
        ("problem", pa.string()),
        ("slots", _SLOTS),
        ("tokens", pa.large_binary()),  # float16 [S, N, C] or [S, N, L, C], int8 where there are scales
        ("tokens_shape", _SHAPE),
        ("token_scales", pa.large_binary()),  # float16 [S, N] or [S, N, L] of int8 tokens, else null
        ("token_scales_shape", _SHAPE),
        ("sizes", pa.large_binary()),  # int32 [S, N]
        ("sizes_shape", _SHAPE),
        ("vectors", pa.large_binary()),  # float16 [S, Q, V], null without a retrieval model
        ("vectors_shape", _SHAPE),
        ("prompts", pa.list_(pa.int32())),  # which of the run's prompts
        # null for families that read slots
        ("query_output", pa.large_binary()),
        ("query_output_shape", _SHAPE),
    ]
)
_TEXTS = [
    ("texts", pa.list_(pa.string())),
    ("scores", pa.list_(pa.float32())),
    # A classification's probability of each label, in the labels' order.
    ("label_scores", pa.list_(pa.list_(pa.float32()))),
]
# generate: texts and scores, one a prompt, in place of the query outputs
ANSWERED = pa.schema(
    [f for f in ENCODED if not f.name.startswith("query_output")] + [pa.field(*t) for t in _TEXTS]
)
# write: a receipt for the driver
RECEIPTS = pa.schema([*_CARRIED, ("problem", pa.string()), ("receipt", RECEIPT)])

# input of replay, made by the driver: a segment, or a whole video by its segments, and which prompts
TO_REPLAY = pa.schema([*_CARRIED, ("segment_ids", pa.list_(pa.string())), ("prompts", pa.list_(pa.int32()))])
# replay: query outputs of those prompts on the stored memory, or for families that read slots the slots themselves
REPLAYED = pa.schema(
    [
        *_CARRIED,
        ("slots", _SLOTS),
        ("tokens", pa.large_binary()),
        ("tokens_shape", _SHAPE),
        ("prompts", pa.list_(pa.int32())),
        ("query_output", pa.large_binary()),
        ("query_output_shape", _SHAPE),
    ]
)

# Evaluation. Its segments are clips: a clip's id, the address of its video or folder of frames, and its span.
_QUESTIONS = [
    ("prompts", pa.list_(pa.string())),
    ("choices", pa.list_(pa.list_(pa.string()))),  # empty for an open question
]
# input of pick, made by the driver: frames by number, or how many of the span [start_s, end_s)
ASKED = pa.schema([*_CARRIED, ("cells", pa.list_(pa.int32())), ("count", pa.int32()), *_QUESTIONS])
# input of sample, made by a worker of a training: also which part of the pictures is shown
TO_SAMPLE = pa.schema([*ASKED, ("box", pa.list_(pa.float64()))])
# pick: uint8 frames [T, H, W, 3] in C order and their times
PICKED = pa.schema(
    [
        *_CARRIED,
        ("frames", pa.large_binary()),
        ("frames_shape", _SHAPE),
        ("timestamps_s", pa.list_(pa.float64())),
        ("end_s", pa.float64()),
        *_QUESTIONS,
    ]
)
# answer: the returned texts of each prompt by each way of watching, the best first, and what they cost
TOLD = pa.schema(
    [
        *_CARRIED,
        (
            "ways",
            pa.list_(
                pa.struct(
                    [
                        ("way", pa.string()),
                        ("texts", pa.list_(pa.list_(pa.string()))),
                        ("encode_s", pa.float64()),
                        ("answer_s", pa.float64()),
                        ("stored_bytes", pa.int64()),
                        ("visual_tokens", pa.int32()),
                        ("language_tokens", pa.int32()),
                    ]
                )
            ),
        ),
    ]
)
# listen: int16 samples [N] of a span of sound, which is the row's segment; none for a video without sound
AUDIBLE = pa.schema(
    [*_CARRIED, ("sound", pa.large_binary()), ("sound_shape", _SHAPE), ("problem", pa.string())]
)
_UTTERANCES = pa.list_(
    pa.struct(
        [
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("text", pa.string()),
            ("language", pa.string()),
        ]
    )
)
# transcribe: what is said in the span, on the video's clock
TRANSCRIBED = pa.schema([*_CARRIED, ("utterances", _UTTERANCES), ("problem", pa.string())])


@dataclass(frozen=True)
class Carried:
    """The columns that every row carries: its video, its segment and its failure."""

    video: Video | None
    segment: Segment | None
    failure: Failure | None

    def failed(self, stage: str, kind: str, message: str, trace: str = "") -> Carried:
        """A copy of this row with a failure."""
        video = self.video
        failure = Failure(
            video.video_id if video else "",
            self.segment.segment_id if self.segment else None,
            video.uri if video else "",
            stage,
            kind,
            message,
            video.fingerprint if video else "",
            trace,
        )
        return Carried(video, self.segment, failure)

    def columns(self) -> dict[str, Any]:
        """The values of the three columns."""
        return {
            "video": asdict(self.video) if self.video else None,
            "segment": asdict(self.segment) if self.segment else None,
            "failure": asdict(self.failure) if self.failure else None,
        }


def carried(rows: pa.Table) -> list[Carried]:
    """The ``Carried`` of each row of a stage's output."""
    names = [name for name in ("video", "segment", "failure") if name in rows.column_names]
    return [
        Carried(
            Video(**row["video"]) if row.get("video") else None,
            Segment(**row["segment"]) if row.get("segment") else None,
            Failure(**row["failure"]) if row.get("failure") else None,
        )
        for row in rows.select(names).to_pylist()
    ]


def array_at(rows: pa.Table, name: str, row: int, dtype: Any) -> np.ndarray:
    """The array in column ``name``, with its shape from ``{name}_shape``: read-only and not copied."""
    shape, at = rows[f"{name}_shape"][row].as_py(), row
    for chunk in rows[name].chunks:
        if at < len(chunk):
            break
        at -= len(chunk)
    # Not through the row's scalar: Arrow would copy the bytes.
    _, offsets, data = chunk.buffers()
    begin = int(np.frombuffer(offsets, np.int64)[chunk.offset + at])
    array = np.frombuffer(data, dtype, count=math.prod(shape), offset=begin).reshape(shape)
    array.flags.writeable = False
    return array


def _array_columns(name: str, array: np.ndarray) -> dict[str, Any]:
    return {name: np.ascontiguousarray(array).data, f"{name}_shape": list(array.shape)}


def with_arrays(columns: dict[str, Any], **arrays: np.ndarray) -> dict[str, Any]:
    """Add arrays and their shapes to ``columns``, for one row of ``rows_table``."""
    for name, array in arrays.items():
        columns |= _array_columns(name, array)
    return columns


def rows_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of ``schema``; columns that a row lacks are null.

    Values of large binary columns are not copied: each becomes a chunk.
    """
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_large_binary(field.type):
            columns.append(_binary_column(values, field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _binary_column(values: list[Any], kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([_wrapped(value, kind) for value in values], kind)


def _wrapped(value: Any, kind: pa.DataType) -> pa.Array:
    """Wrap a value as an array of length one, without a copy."""
    if value is None:
        return pa.nulls(1, kind)
    data = pa.py_buffer(value)
    offsets = pa.py_buffer(np.array([0, data.size], dtype=np.int64))
    return pa.Array.from_buffers(kind, 1, [None, offsets, data])
