"""Films as vectors of frames, sampled into slots as memory does, and archives of them: copies can be planted."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables
from malmm.pipeline.schema.config import Recipe
from support.archive_rows import RECIPE, WHEN, rows, video_table

__all__ = ["FRAME_S", "SIZE", "SLOT_S", "Slot", "archive_of", "film", "sampled"]

SIZE, SLOT_S, FRAME_S = 32, 5.0, 0.5
#: Start, end and vector of a slot.
Slot = tuple[float, float, np.ndarray]


def film(seed: int, length_s: float) -> np.ndarray:
    """Vectors of frames: scenes of 3 to 20 seconds, which change a little as they go on."""
    chance = np.random.default_rng(seed)
    frames: list[np.ndarray] = []
    while len(frames) < length_s / FRAME_S:
        look, motion = chance.standard_normal(SIZE), 0.3 * chance.standard_normal(SIZE)
        count = int(chance.integers(3, 21) / FRAME_S)
        frames += [look + motion * place / count for place in range(count)]
    return np.stack(frames[: int(length_s / FRAME_S)])


def sampled(
    frames: np.ndarray,
    rate: float = 1.0,
    *,
    seed: int = 0,
    noise: float = 0.1,
    slot_s: float = SLOT_S,
    uneven: bool = False,
) -> list[Slot]:
    """Slots of about ``slot_s`` seconds over frames that are shown at ``rate`` times their speed."""
    chance = np.random.default_rng(seed)
    length_s = len(frames) * FRAME_S / rate
    bounds = [0.0]
    while bounds[-1] < length_s - 1e-9:
        step_s = slot_s * (float(chance.uniform(0.4, 1.6)) if uneven else 1.0)
        bounds.append(min(length_s, bounds[-1] + step_s))
    slots = []
    for start_s, end_s in itertools.pairwise(bounds):
        begin = int(start_s * rate / FRAME_S)
        shown = frames[begin : max(begin + 1, int(end_s * rate / FRAME_S))].mean(0)
        slots.append((start_s, end_s, shown + noise * chance.standard_normal(SIZE)))
    return slots


def archive_of(
    place: Path, videos: Mapping[str, Sequence[Slot]], recipe: Recipe = RECIPE, vectors: int = 2
) -> Archive:
    """An archive of one segment a video, whose slots have ``vectors`` vectors that differ a little; 0 for none."""
    chance = np.random.default_rng(0)
    archive = Archive.create_or_open(str(place), recipe, SIZE)
    one = {name: table.to_pylist()[0] for name, table in rows(0).items()}
    for number, (uri, slots) in enumerate(videos.items()):
        video, segment = ids.video_id(uri), f"{number:024x}"
        about = {"segment_id": segment, "video_id": video}
        memories = []
        for slot, (start_s, end_s, vector) in enumerate(slots):
            several = vector + 0.05 * chance.standard_normal((vectors, SIZE))
            several /= np.linalg.norm(several, axis=1, keepdims=True)
            memories.append(
                one["memories"]
                | about
                | {
                    "memory_id": ids.memory_id(segment, slot),
                    "slot": slot,
                    "start_s": start_s,
                    "end_s": end_s,
                }
                | {"vectors": several.astype(np.float16).tolist() if vectors else None}
            )
        end_s = slots[-1][1]
        segments = [one["segments"] | about | {"start_s": 0.0, "end_s": end_s}]
        texts = [one["annotations"] | about | {"start_s": 0.0, "end_s": end_s}]
        texts[0]["annotation_id"] = ids.annotation_id(segment, "v", "debug", "online")
        written = {
            "memories": pa.Table.from_pylist(memories, schema=tables.memories_schema(SIZE)),
            "segments": pa.Table.from_pylist(segments, schema=tables.SEGMENTS),
            "annotations": pa.Table.from_pylist(texts, schema=tables.ANNOTATIONS),
        }
        archive.commit(write_rows(archive.uri, written))
        row = video_table(0).to_pylist()[0] | {"video_id": video, "uri": uri, "duration_s": end_s}
        row["indexed_at"] = WHEN.replace(minute=number)
        archive.put_videos(pa.Table.from_pylist([row], schema=tables.VIDEOS))
    return archive
