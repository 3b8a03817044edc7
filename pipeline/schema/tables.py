"""The Arrow schemas of an archive's tables. Brackets hold the shapes of arrays."""

from __future__ import annotations

import pyarrow as pa

from malmm.pipeline.schema.records import Failure, Segment, Video, arrow_fields

__all__ = [
    "ADDED_COLUMNS",
    "ANNOTATIONS",
    "ANSWERS_ONLY",
    "COLLECTED_VECTORS",
    "FAILURES",
    "FORMAT",
    "FORMAT_OF_NEW_VECTORS",
    "GIVEN_COLUMNS",
    "GIVEN_TASKS",
    "LATER_TABLES",
    "MOMENT",
    "PASSES",
    "RECIPES",
    "RECORD",
    "REVIEWS",
    "RUNS",
    "SEGMENTS",
    "SPANS",
    "STORED_ANNOTATIONS",
    "TOMBSTONES",
    "VIDEOS",
    "memories_schema",
    "of_this_or_before",
    "table_schemas",
]

#: Version of the archive format. Incremented when older versions of this package would misread the tables.
FORMAT = 2
#: The format of archives whose vectors were made anew by another retrieval model than the recipe's.
FORMAT_OF_NEW_VECTORS = 3
#: The table in which vectors of another retrieval model are collected. Made when it is needed, and empty afterwards.
COLLECTED_VECTORS = "new_vectors"

#: The unbroken spans of a slot that joins what is not adjacent, in time order.
SPANS = pa.list_(pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("frame_count", pa.int32())]))

#: Columns that archives of 0.1 lack, where they are read as null: of ``memories``, and of texts that no model made.
ADDED_COLUMNS: dict[str, pa.DataType] = {
    "token_scales": pa.list_(pa.float16()),
    "spans": SPANS,
    "source": pa.string(),
    "origin": pa.string(),
    "language": pa.string(),
    "speaker": pa.string(),
}
#: Those of ``annotations``.
GIVEN_COLUMNS = ("source", "origin", "language", "speaker")
#: The task of an answer that follows a schema, and that of one timed record in such an answer.
RECORD, MOMENT = "record", "moment"
#: Tasks of texts that have a span of their own and answer no prompt. A moment was taken out of an answer.
GIVEN_TASKS = ("transcript", "imported", MOMENT)
#: The SQL condition for all other texts: those that prompts were answered with.
ANSWERS_ONLY = f"task NOT IN ({', '.join(map(repr, GIVEN_TASKS))})"

TIMESTAMP = pa.timestamp("us", tz="UTC")

VIDEOS = pa.schema(
    [
        *arrow_fields(Video),
        pa.field("recipe_id", pa.string(), nullable=False),
        pa.field("indexed_at", TIMESTAMP, nullable=False),
    ]
)

SEGMENTS = pa.schema(
    [
        *arrow_fields(Segment, "segment_id", "video_id", "index", "start_s", "end_s"),
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
        *(pa.field(name, ADDED_COLUMNS[name]) for name in GIVEN_COLUMNS),
    ]
)

#: As an archive stores them, with what is made of them for search.
STORED_ANNOTATIONS = ANNOTATIONS.append(pa.field("text_grams", pa.string()))

FAILURES = pa.schema(
    [
        pa.field("failure_id", pa.string(), nullable=False),
        *arrow_fields(Failure, "video_id", "segment_id", "uri", "fingerprint", "stage", "kind", "message"),
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

#: What was done with videos that need not leave a row elsewhere: a silent video has no transcript.
PASSES = pa.schema(
    [
        pa.field("pass_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("done_at", TIMESTAMP, nullable=False),
    ]
)

#: Videos that were forgotten, by their ids alone. Lies at the archive's own address for all recipes.
TOMBSTONES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("forgotten_at", TIMESTAMP, nullable=False),
        pa.field("purged_at", TIMESTAMP),
    ]
)

#: What people say of texts, the newest counts. Holds what a text was about, so that it outlives the text's row. Lies at
#: the archive's own address for all recipes, and rows are appended without the lease.
REVIEWS = pa.schema(
    [
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("annotation_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
        pa.field("prompt_name", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_version", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("correction", pa.string()),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("reviewed_at", TIMESTAMP, nullable=False),
    ]
)

#: Tables that are created with their first row, so that an archive may lack them.
LATER_TABLES = {"passes": PASSES, "tombstones": TOMBSTONES, "reviews": REVIEWS}

#: This table is created when the first run is recorded, so an archive may not have it.
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


def memories_schema(vector_size: int, token_layers: int = 1) -> pa.Schema:
    """The ``memories`` table, one row a memory slot.

    ``spans`` is null but for merge policies that join what is not adjacent; ``start_s`` and ``end_s`` are their hull.

    ``vectors`` is a multivector: the slot's [32, vector_size] unit vectors, for cosine search with one
    query vector. ``tokens`` holds [N, C] float16, or [N, L, C] with ``token_layers`` L above 1, in C order as a blob
    that a scan does not read; its shape is in ``token_shape``. Where ``token_scales`` [N] or [N, L] is not null the
    tokens are int8, to be multiplied by it. ``sizes`` [N] says how many frames each token position holds.
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
            pa.field("spans", ADDED_COLUMNS["spans"]),
            pa.field("vectors", pa.list_(pa.list_(pa.float16(), vector_size))),
            pa.field("tokens", pa.large_binary(), metadata={"lance-encoding:blob": "true"}),
            pa.field("token_shape", pa.list_(pa.int32(), 2 if token_layers == 1 else 3), nullable=False),
            pa.field("token_scales", ADDED_COLUMNS["token_scales"]),
            pa.field("sizes", pa.list_(pa.int32()), nullable=False),
            pa.field("thumbnail", pa.binary()),
        ]
    )


def of_this_or_before(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Whether a ``memories`` table has the columns of ``wanted``, but for those added since it was made.

    In whatever order: vectors that were made anew come last.
    """
    return all(
        found.field(field.name).equals(field) if field.name in found.names else field.name in ADDED_COLUMNS
        for field in wanted
    )


def table_schemas(vector_size: int, token_layers: int = 1) -> dict[str, pa.Schema]:
    """Every table of an archive by name."""
    return {
        "recipes": RECIPES,
        "videos": VIDEOS,
        "memories": memories_schema(vector_size, token_layers),
        "annotations": STORED_ANNOTATIONS,
        "segments": SEGMENTS,
        "failures": FAILURES,
    }
