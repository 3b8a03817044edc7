"""Time of a page of results over many slots, without encoding the query.

A synthetic archive with real tables: clustered unit vectors, captions, thumbnails and the indexes that a run makes.

    python benchmarks/page.py build/page --slots 100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from fastapi.testclient import TestClient

from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables
from malmm.pipeline.schema.config import CAPTION, Recipe
from malmm.pipeline.web.api.events import Event
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

SIZE, VECTORS, SLOTS, SEGMENTS = 64, 16, 20, 36
RECIPE = Recipe("synthetic", "a", "synthetic", "b", 1.0, 100.0, SLOTS, "token", 56)
WORDS = (
    "red",
    "blue",
    "green",
    "white",
    "circle",
    "square",
    "star",
    "moving",
    "left",
    "right",
    "then",
    "up",
    "down",
)
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class KnownVectors:
    """Queries that are encoded already."""

    def __init__(self, centres: np.ndarray) -> None:
        self.centres = centres

    async def vector(self, text: str) -> np.ndarray | None:
        """A vector [V] near one of the clusters, the same for the same text."""
        rng = np.random.default_rng(list(text.encode()))
        return unit(self.centres[rng.integers(len(self.centres))] + 0.05 * rng.standard_normal(SIZE))

    async def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[Event]:
        """Nothing is asked here."""
        return
        yield


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of unit length."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def fill(archive: Archive, number: int, centres: np.ndarray) -> dict[str, object]:
    """Store a video of ``SEGMENTS`` segments; return its row of ``videos``."""
    rng = np.random.default_rng(number)
    video = ids.video_id(f"/films/{number}.mp4")
    segments, texts, memories = [], [], []
    for index in range(SEGMENTS):
        start_s = 100.0 * index
        key = ids.segment_id(video, "x", RECIPE.recipe_id, start_s, start_s + 100)
        span = {"video_id": video, "segment_id": key, "start_s": start_s, "end_s": start_s + 100}
        segments.append(span | {"index": index, "frame_count": 100, "recipe_id": RECIPE.recipe_id})
        texts.append(span | {
            "annotation_id": ids.annotation_id(key, CAPTION.version, "synthetic", "online"), "task": "caption",
            "prompt_name": CAPTION.name, "prompt": CAPTION.text, "prompt_version": CAPTION.version,
            "text": " ".join(rng.choice(WORDS, 12)), "score": None, "label_scores": None, "mode": "online",
            "model": "synthetic", "created_at": WHEN,
        })  # fmt: skip
        chosen = centres[rng.integers(len(centres), size=(SLOTS, 1))]
        vectors = unit(chosen + 0.1 * rng.standard_normal((SLOTS, VECTORS, SIZE))).astype(np.float16)
        for slot in range(SLOTS):
            memories.append({
                "memory_id": ids.memory_id(key, slot), "segment_id": key, "video_id": video, "slot": slot,
                "start_s": start_s + 5 * slot, "end_s": start_s + 5 * slot + 5, "timestamp_s": start_s + 5 * slot + 2,
                "frame_count": 5, "vectors": vectors[slot].tolist(), "tokens": b"", "token_shape": [0, 0], "sizes": [],
                "thumbnail": rng.bytes(1500),
            })  # fmt: skip
    written = {
        "memories": pa.Table.from_pylist(memories, schema=tables.memories_schema(SIZE)),
        "annotations": pa.Table.from_pylist(texts, schema=tables.ANNOTATIONS),
        "segments": pa.Table.from_pylist(segments, schema=tables.SEGMENTS),
    }
    archive.commit(write_rows(archive.uri, written))
    return {
        "video_id": video, "uri": f"/films/{number}.mp4", "fingerprint": "x", "start_s": 0.0,
        "duration_s": 100.0 * SEGMENTS, "fps": 25.0, "width": 64, "height": 48, "codec": "h264", "metadata": "",
        "cuts": [], "recipe_id": RECIPE.recipe_id, "indexed_at": WHEN,
    }  # fmt: skip


def main() -> None:
    """Make the archive unless it is there, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slots", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=50)
    arguments = parser.parse_args()
    place = str(arguments.folder / f"archive-{arguments.slots}")
    centres = unit(np.random.default_rng(1).standard_normal((500, SIZE)))
    if not Path(place).exists():
        began = time.perf_counter()
        archive = Archive.create_or_open(place, RECIPE, SIZE)
        rows = [fill(archive, n, centres) for n in range(max(1, arguments.slots // (SLOTS * SEGMENTS)))]
        archive.put_videos(pa.Table.from_pylist(rows, schema=tables.VIDEOS))
        written = time.perf_counter()
        # As a run leaves it: small files merged, and indexes up to date.
        archive.compact(at_least=2)
        archive.update_indexes(at_once=True)
        print(f"written in {written - began:.0f} s, indexed in {time.perf_counter() - written:.0f} s")
    encoder = KnownVectors(centres)
    asyncio.run(encoder.vector("warm"))
    pages, pictures, following = [], [], []
    with TestClient(make_app(ServeConfig(place), encoder), base_url="http://localhost") as client:
        for number in range(arguments.queries + 3):
            query = {"text": f"a {WORDS[number % 4]} {WORDS[4 + number % 3]} {number}", "limit": "24"}
            began = time.perf_counter()
            page = client.get("/api/search", params=query).json()
            found = time.perf_counter()
            for card in page["moments"]:
                if card["thumbnail"]:
                    assert client.get("/" + card["thumbnail"]).status_code == 200
            shown = time.perf_counter()
            client.get("/api/search", params=query | {"cursor": page["next"]}).raise_for_status()
            if number >= 3:
                pages.append(found - began)
                pictures.append(shown - found)
                following.append(time.perf_counter() - shown)
    times = {"page": pages, "its pictures": pictures, "the page after": following}
    shown_ms = {
        name: {f"p{q}": round(1000 * float(np.percentile(values, q))) for q in (50, 95)}
        for name, values in times.items()
    }
    print(json.dumps({"slots": arguments.slots, "milliseconds": shown_ms}))


if __name__ == "__main__":
    main()
