"""Archives of real tables with made-up slots: vectors in clusters as those of a video's scenes, and captions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from malmm.model.checkpoints.resolve import open_models
from malmm.pipeline import Archive, Recipe
from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS, VIDEOS

SLOTS_A_SEGMENT, SEGMENTS_A_VIDEO, SLOT_S = 20, 36, 5.0
SLOTS_A_VIDEO = SLOTS_A_SEGMENT * SEGMENTS_A_VIDEO
SLOTS_A_WRITE = 2000
WORDS = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("ck", "nd", "rt", "ll", "sh", "mp")]


class SyntheticArchive:
    """An archive of slots of ``vectors`` unit vectors of ``size`` numbers, that grows to ``most`` slots."""

    def __init__(self, place: str, vectors: int, size: int, most: int, chance: np.random.Generator) -> None:
        models = open_models("demo")
        self.recipe = Recipe(
            model="demo",
            model_fingerprint=models.instructblip.fingerprint(),
            retrieval_model=models.retrieval.name if models.retrieval else "none",
            retrieval_fingerprint=models.retrieval.fingerprint() if models.retrieval else "none",
            fps=1.0,
            segment_s=SLOTS_A_SEGMENT * SLOT_S,
            bank_length=SLOTS_A_SEGMENT,
            merge_policy="token",
            image_size=96,
        )
        self.archive = Archive.create_or_open(place, self.recipe, size)
        self.slots = 0
        self._chance = chance
        # Slots of one look share it across the archive: that is what makes one nearer to a query than others.
        self._looks = unit(chance.standard_normal((max(10, most // 20), vectors, size), np.float32))
        self._seen: list[np.ndarray] = []

    def grow(self, slots: int, looks: float = 1.0) -> None:
        """Add slots, rounded up to whole segments, whose looks are of the first share ``looks`` of all."""
        now = datetime.now(UTC)
        first, last = (-(-count // SLOTS_A_SEGMENT) for count in (self.slots, self.slots + slots))
        videos = range(-(-first // SEGMENTS_A_VIDEO), -(-last // SEGMENTS_A_VIDEO))
        append(
            self.archive,
            "videos",
            pa.Table.from_pylist([video_row(n, self.recipe, now) for n in videos], VIDEOS),
        )
        rows = [segment_row(n, self.recipe) for n in range(first, last)]
        append(self.archive, "segments", pa.Table.from_pylist(rows, SEGMENTS))
        texts = [text_row(row, " ".join(self._chance.choice(WORDS, 12)), now) for row in rows]
        append(self.archive, "annotations", pa.Table.from_pylist(texts, ANNOTATIONS))
        known = self._looks[: max(10, round(looks * len(self._looks)))]
        end = last * SLOTS_A_SEGMENT
        for begin in range(first * SLOTS_A_SEGMENT, end, SLOTS_A_WRITE):
            numbers = range(begin, min(end, begin + SLOTS_A_WRITE))
            found = self.vectors(numbers, known)
            self._seen.append(found[:50, 0])
            append(self.archive, "memories", slot_rows(numbers, found, self.archive.schema("memories")))
        self.slots = end

    def vectors(self, numbers: range, looks: np.ndarray) -> np.ndarray:
        """Unit vectors [slots, vectors, size] of the slots with these numbers, near to some of ``looks``."""
        look = looks[self._chance.integers(len(looks), size=len(numbers))]
        return unit(look + 0.6 * unit(self._chance.standard_normal(look.shape, np.float32)))

    def queries(self, count: int) -> np.ndarray:
        """Unit vectors [count, size] near to some of the slots."""
        nearby = np.concatenate(self._seen)
        near = nearby[self._chance.integers(len(nearby), size=count)]
        return unit(near + 0.5 * unit(self._chance.standard_normal(near.shape, np.float32)))


def append(archive: Archive, name: str, rows: pa.Table) -> None:
    """Write rows as a run's commits do."""
    lance.write_dataset(rows, table_uri(archive.uri, name), mode="append")


def video_row(number: int, recipe: Recipe, now: datetime) -> dict[str, object]:
    """A row of ``videos``."""
    length_s = SEGMENTS_A_VIDEO * SLOTS_A_SEGMENT * SLOT_S
    return {
        "video_id": f"a{number:023x}",
        "uri": f"/videos/{number}.mp4",
        "fingerprint": "1",
        "codec": "h264",
        "start_s": 0.0,
        "duration_s": length_s,
        "fps": 24.0,
        "width": 640,
        "height": 360,
        "cuts": [],
        "metadata": "",
        "recipe_id": recipe.recipe_id,
        "indexed_at": now,
    }


def segment_row(number: int, recipe: Recipe) -> dict[str, object]:
    """A row of ``segments``."""
    video, index = divmod(number, SEGMENTS_A_VIDEO)
    length_s = SLOTS_A_SEGMENT * SLOT_S
    return {
        "segment_id": f"b{number:023x}",
        "video_id": f"a{video:023x}",
        "index": index,
        "start_s": index * length_s,
        "end_s": (index + 1) * length_s,
        "frame_count": round(length_s),
        "recipe_id": recipe.recipe_id,
    }


def text_row(segment: dict[str, object], text: str, now: datetime) -> dict[str, object]:
    """A segment's caption."""
    same = {name: segment[name] for name in ("segment_id", "video_id", "start_s", "end_s")}
    return {
        **same,
        "annotation_id": f"c{str(segment['segment_id'])[1:]}",
        "task": "caption",
        "prompt_name": CAPTION.name,
        "prompt": CAPTION.text,
        "prompt_version": CAPTION.version,
        "text": text,
        "mode": "online",
        "model": "demo",
        "created_at": now,
    }


def slot_rows(numbers: range, vectors_SQV: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Rows of ``memories``, with few tokens: searching reads none."""
    count, queries, size = vectors_SQV.shape
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors_SQV.astype(np.float16).reshape(-1)), size)
    lists = pa.ListArray.from_arrays(pa.array(range(0, (count + 1) * queries, queries), pa.int32()), flat)
    parts: Iterator[tuple[int, int]] = (divmod(number, SLOTS_A_SEGMENT) for number in numbers)
    places = list(parts)
    columns: dict[str, list[Any]] = {
        "memory_id": [memory_id(f"b{segment:023x}", slot) for segment, slot in places],
        "segment_id": [f"b{segment:023x}" for segment, _ in places],
        "video_id": [f"a{segment // SEGMENTS_A_VIDEO:023x}" for segment, _ in places],
        "slot": [slot for _, slot in places],
        "start_s": [
            SLOT_S * (slot + SLOTS_A_SEGMENT * (segment % SEGMENTS_A_VIDEO)) for segment, slot in places
        ],
    }
    columns["end_s"] = [time_s + SLOT_S for time_s in columns["start_s"]]
    columns["timestamp_s"] = columns["start_s"]
    columns["frame_count"] = [5] * count
    columns["tokens"] = [bytes(16)] * count
    columns["token_shape"] = [[2, 4]] * count
    columns["sizes"] = [[5, 5]] * count
    columns["thumbnail"] = [bytes(3000)] * count
    # Columns of other kinds of memory are null.
    nulls = {field.name: [None] * count for field in schema if field.nullable}
    arrays = {name: pa.array(values, schema.field(name).type) for name, values in (nulls | columns).items()}
    return pa.Table.from_arrays([(arrays | {"vectors": lists})[name] for name in schema.names], schema=schema)


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors, of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
