"""Speed of reading an archive of very many videos: pages, filters, searches by date, and export.

A synthetic archive with one segment, one memory slot and one caption a video, indexed a minute apart.

    python benchmarks/many_videos.py build/many --videos 100000
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from fastapi.testclient import TestClient

from malmm.pipeline.archive.export import export_captions, texts_of
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.video_selection import select_videos
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables
from malmm.pipeline.schema.config import CAPTION, Recipe
from malmm.pipeline.web.api.events import Event
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

SIZE, VECTORS = 32, 4
RECIPE = Recipe("synthetic", "a", "synthetic", "b", 1.0, 100.0, 1, "token", 56)
WORDS = ("red", "blue", "green", "circle", "square", "star", "moving", "left", "right", "then", "up", "down")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 10_000


class KnownVectors:
    """Queries that are encoded already."""

    async def vector(self, text: str) -> np.ndarray | None:
        """A unit vector [V], the same for the same text."""
        return unit(np.random.default_rng(list(text.encode())).standard_normal(SIZE))

    async def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[Event]:
        """Nothing is asked here."""
        return
        yield


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of unit length."""
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def fill(archive: Archive, numbers: range) -> None:
    """Store videos of one segment each."""
    rng = np.random.default_rng(numbers.start)
    vectors = unit(rng.standard_normal((len(numbers), VECTORS, SIZE))).astype(np.float16)
    videos, segments, texts, memories = [], [], [], []
    for place, number in enumerate(numbers):
        uri, when = f"/films/{number // 1000}/clip-{number}.mp4", FIRST + timedelta(minutes=number)
        video = ids.video_id(uri)
        key = ids.segment_id(video, "x", RECIPE.recipe_id, 0.0, 100.0)
        span = {"video_id": video, "segment_id": key, "start_s": 0.0, "end_s": 100.0}
        segments.append(span | {"index": 0, "frame_count": 100, "recipe_id": RECIPE.recipe_id})
        texts.append(span | {
            "annotation_id": ids.annotation_id(key, CAPTION.version, "synthetic", "online"), "task": "caption",
            "prompt_name": CAPTION.name, "prompt": CAPTION.text, "prompt_version": CAPTION.version,
            "text": " ".join(rng.choice(WORDS, 6)), "score": None, "label_scores": None, "mode": "online",
            "model": "synthetic", "created_at": when,
        })  # fmt: skip
        memories.append(span | {
            "memory_id": ids.memory_id(key, 0), "slot": 0, "timestamp_s": 50.0, "frame_count": 100,
            "vectors": vectors[place].tolist(), "tokens": b"", "token_shape": [0, 0], "sizes": [], "thumbnail": b"",
        })  # fmt: skip
        videos.append({
            "video_id": video, "uri": uri, "fingerprint": "x", "start_s": 0.0, "duration_s": 100.0, "fps": 25.0,
            "width": 64, "height": 48, "codec": "h264", "metadata": "", "cuts": [], "recipe_id": RECIPE.recipe_id,
            "indexed_at": when,
        })  # fmt: skip
    written = {
        "memories": pa.Table.from_pylist(memories, schema=tables.memories_schema(SIZE)),
        "annotations": pa.Table.from_pylist(texts, schema=tables.ANNOTATIONS),
        "segments": pa.Table.from_pylist(segments, schema=tables.SEGMENTS),
    }
    archive.commit(write_rows(archive.uri, written))
    archive.put_videos(pa.Table.from_pylist(videos, schema=tables.VIDEOS))


def measured(name: str, action: Callable[[], object], times: int = 3) -> None:
    """Print how long the first call takes, and the best of the others."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        spent.append(time.perf_counter() - began)
    later = f", then {1000 * min(spent[1:]):7.0f} ms" if times > 1 else ""
    print(f"{name:45s} {1000 * spent[0]:7.0f} ms{later}", flush=True)


def main() -> None:
    """Make the archive unless it is there, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=100_000)
    arguments = parser.parse_args()
    place = str(arguments.folder / f"archive-{arguments.videos}")
    if not Path(place).exists():
        began = time.perf_counter()
        archive = Archive.create_or_open(place, RECIPE, SIZE)
        with archive.held():
            for first in range(0, arguments.videos, AT_ONCE):
                fill(archive, range(first, min(arguments.videos, first + AT_ONCE)))
            archive.compact(at_least=2)
            archive.update_indexes(at_once=True)
        print(f"written in {time.perf_counter() - began:.0f} s")
    middle = (FIRST + timedelta(minutes=arguments.videos // 2)).isoformat()
    late = (FIRST + timedelta(minutes=arguments.videos - 3000)).isoformat()
    asyncio.run(KnownVectors().vector("warm"))
    with TestClient(make_app(ServeConfig(place), KnownVectors()), base_url="http://localhost") as client:
        words = map(" ".join, itertools.cycle(itertools.permutations(WORDS, 2)))

        def search(**filters: str) -> None:
            answer = client.get("/api/search", params={"text": next(words), "limit": "24"} | filters)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["moments"]) == 24

        def touched() -> None:
            # What a commit of a run does to a list that is kept.
            writer.put_videos(row)
            client.get("/api/videos")

        writer = Archive.create_or_open(place, RECIPE, SIZE)
        row = writer.videos().slice(0, 1)
        measured("page of videos", lambda: client.get("/api/videos"))
        with writer.held():
            measured("page of videos after a commit, with the commit", touched)
            measured("the commit alone", lambda: writer.put_videos(row))
        measured("page of videos by name", lambda: client.get("/api/videos", params={"text": "clip-77"}))
        measured(
            "page of videos since the middle", lambda: client.get("/api/videos", params={"since": middle})
        )
        measured("archive at a glance", lambda: client.get("/api/archive"))
        measured("search", search)
        measured("search since the middle", lambda: search(since=middle))
        measured("search in the last 3,000", lambda: search(since=late))
    reader = ArchiveReader.open(place)
    since = datetime.fromisoformat(middle)
    chosen = select_videos(reader, since=since)["video_id"].to_pylist()
    condition = " OR ".join(f"({part})" for part in is_in("video_id", chosen))
    memories = reader.table("memories").to_lance()
    print(f"a condition over the {len(chosen):,} of them: {len(condition) / 1e6:.1f} MB")
    measured("counting slots by that condition", lambda: memories.count_rows(filter=condition))
    measured("videos chosen since the middle", lambda: select_videos(reader, since=since))
    measured("videos chosen by glob", lambda: select_videos(reader, ["clip-77*.mp4"]))
    texts = texts_of(reader).slice(0, 16_000)
    folder = arguments.folder / "captions"
    measured("captions of 16,000 videos to files", lambda: export_captions(texts, "vtt", folder), 1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
