"""Rows of made-up segments, the same for the same segment in every process."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.commits import Committed
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables
from malmm.pipeline.schema.config import Recipe, stable_id

RECIPE = Recipe(
    model="debug",
    model_fingerprint="aaaa",
    retrieval_model="debug",
    retrieval_fingerprint="bbbb",
    fps=1.0,
    segment_s=100.0,
    bank_length=20,
    merge_policy="token",
    image_size=56,
)
VECTOR_SIZE = 8
WHEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
PLANNED = tuple(range(5))
PROMPT_VERSION = stable_id("a prompt")


def video(number: int) -> str:
    return ids.video_id(f"file:///videos/{number}.mp4")


def segment(number: int, *, of_video: int = 0, fingerprint: str = "first") -> str:
    start_s = 100.0 * number
    return ids.segment_id(video(of_video), fingerprint, RECIPE.recipe_id, start_s, start_s + 100.0)


def tokens(segment_id: str, slots: int = 3, shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    """float16 [slots, N, C]"""
    seed = int(segment_id[:8], 16)
    return np.random.default_rng(seed).standard_normal((slots, *shape)).astype(np.float16)


def rows(
    *numbers: int,
    of_video: int = 0,
    fingerprint: str = "first",
    slots: int = 3,
    shape: tuple[int, int] = (4, 6),
) -> dict[str, pa.Table]:
    """The three tables of the given segments."""
    memories, annotations, segments = [], [], []
    for number in numbers:
        key = segment(number, of_video=of_video, fingerprint=fingerprint)
        start_s = 100.0 * number
        segments.append(
            {
                "segment_id": key,
                "video_id": video(of_video),
                "index": number,
                "start_s": start_s,
                "end_s": start_s + 100,
                "frame_count": 100,
                "recipe_id": RECIPE.recipe_id,
            }
        )
        annotations.append(annotation(key, of_video=of_video, start_s=start_s))
        for slot, value in enumerate(tokens(key, slots, shape)):
            memories.append(
                {
                    "memory_id": ids.memory_id(key, slot),
                    "segment_id": key,
                    "video_id": video(of_video),
                    "slot": slot,
                    "start_s": start_s + slot,
                    "end_s": start_s + slot + 1,
                    "timestamp_s": start_s + slot + 0.5,
                    "frame_count": slot + 1,
                    "vectors": np.eye(2, VECTOR_SIZE, dtype=np.float16).tolist(),
                    "tokens": value.tobytes(),
                    "token_shape": list(shape),
                    "sizes": [slot + 1] * shape[0],
                    "thumbnail": b"\xff\xd8 not really",
                }
            )
    return {
        "memories": pa.Table.from_pylist(memories, schema=tables.memories_schema(VECTOR_SIZE)),
        "annotations": pa.Table.from_pylist(annotations, schema=tables.ANNOTATIONS),
        "segments": pa.Table.from_pylist(segments, schema=tables.SEGMENTS),
    }


def commit_rows(archive: Archive, *numbers: int, **options: Any) -> Committed:
    """Write the rows of the given segments and commit them; options are those of ``rows``."""
    return archive.commit(write_rows(archive.uri, rows(*numbers, **options)))


def annotation(
    segment_id: str | None,
    *,
    of_video: int = 0,
    start_s: float = 0.0,
    mode: str = "online",
    subject: str = "",
) -> dict[str, object]:
    return {
        "annotation_id": ids.annotation_id(segment_id or subject, PROMPT_VERSION, "debug", mode),
        "video_id": video(of_video),
        "segment_id": segment_id,
        "start_s": start_s,
        "end_s": start_s + 100,
        "task": "caption",
        "prompt_name": "caption",
        "prompt": "Write a short description of the video.",
        "prompt_version": PROMPT_VERSION,
        "text": "a red square",
        "score": None,
        "label_scores": None,
        "mode": mode,
        "model": "debug",
        "created_at": WHEN,
    }


def annotation_table(*annotations: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(annotations), schema=tables.ANNOTATIONS)


def video_table(*numbers: int, fingerprint: str = "first") -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "video_id": video(number),
                "uri": f"file:///videos/{number}.mp4",
                "fingerprint": fingerprint,
                "start_s": 0.0,
                "duration_s": 400.0,
                "fps": 25.0,
                "width": 64,
                "height": 48,
                "codec": "h264",
                "metadata": "",
                "cuts": [],
                "recipe_id": RECIPE.recipe_id,
                "indexed_at": WHEN,
            }
            for number in numbers
        ],
        schema=tables.VIDEOS,
    )


def run(archive: Archive, numbers: tuple[int, ...] = PLANNED) -> None:
    """What an indexing run does, in short."""
    archive.sweep()
    done = archive.completed_segments()
    for number in numbers:
        if segment(number) not in done:
            archive.commit(write_rows(archive.uri, rows(number)))
