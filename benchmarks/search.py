"""How long a search takes by the archive's size, and what the index misses.

    python benchmarks/search.py [--slots 1000 10000 100000] [--vectors 16] [--size 64] [--queries 100]

Makes archives of real tables, with memory slots of random vectors that lie in clusters as those of a video's scenes do,
and a caption a segment; brings their indexes up to date as a run does; and searches them through
``malmm.pipeline.Searcher``. 16 vectors of 64 are the demo model's, 32 of 256 those of published BLIP-2 checkpoints.
The query's vector is given, as the text tower's time does not depend on the archive: it is measured by itself, for the
demo model. ``recall@10`` is the share of the ten nearest slots by exact search that the search through the index has
among its own ten.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from malmm.model.checkpoints.resolve import open_models
from malmm.model.towers.blip2 import RetrievalModel
from malmm.pipeline import Archive, ArchiveReader, Recipe, Searcher
from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.schema.tables import ANNOTATIONS, SEGMENTS, VIDEOS

SLOTS_A_SEGMENT, SEGMENTS_A_VIDEO, SLOT_S = 20, 36, 5.0
SLOTS_A_WRITE = 2000
WORDS = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("ck", "nd", "rt", "ll", "sh", "mp")]


class Prepared(Searcher):
    """A searcher that is given the vectors of its queries: texts are numbers of rows of ``queries``."""

    queries: np.ndarray

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of ``queries`` by the number that each text begins with."""
        return self.queries[[int(text.split()[0]) for text in texts]]


def main() -> None:
    """Make, index, search and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slots", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--vectors", type=int, default=16, help="a slot (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="numbers a vector (%(default)s)")
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    took = encoder_s()
    print(
        f"slots of {options.vectors} vectors of {options.size}; {options.queries} queries; the demo model's text tower "
        f"takes {1000 * took:.0f} ms a query\n"
    )
    print(
        "| slots | disk MB | index built s | vectors p50 ms | p95 ms | vectors and text p50 ms | p95 ms "
        "| in one video p95 ms | with pictures p95 ms | recall@10 |"
    )
    print("|---" * 10 + "|", flush=True)
    for count in options.slots:
        with tempfile.TemporaryDirectory() as folder:
            measure(str(Path(folder) / "archive"), count, options)


def encoder_s() -> float:
    """Median seconds that a query's text takes to become a vector."""
    checkpoint = open_models("demo").retrieval
    if checkpoint is None:
        raise SystemExit("the demo model has a retrieval model")
    model = RetrievalModel.load(checkpoint)
    return statistics.median(
        timed(lambda: model.text_vectors(["a red circle moving left"])) for _ in range(20)
    )


def measure(place: str, count: int, options: argparse.Namespace) -> None:
    """One row of the table."""
    chance = np.random.default_rng(0)
    nearby = make_archive(place, count, options.vectors, options.size, chance)
    archive = ArchiveReader.open(place)
    # As a run leaves it: small files merged, and indexes up to date.
    Archive.open(place).compact(at_least=2)
    indexed_s = timed(lambda: Archive.open(place).update_indexes(at_once=True))
    searcher = Prepared(archive)
    near = nearby[chance.integers(len(nearby), size=options.queries)]
    searcher.queries = unit(near + 0.5 * unit(chance.standard_normal(near.shape, np.float32)))
    texts = [f"{n} {' '.join(chance.choice(WORDS, 3))}" for n in range(options.queries)]
    video = archive.videos()["video_id"][0].as_py()

    def each(**how: Any) -> list[float]:
        searcher.search(texts[0], **how)
        return [timed(lambda text=text: searcher.search(text, **how)) for text in texts]  # type: ignore[misc]

    vectors = each(signals=("vectors",), thumbnails=False)
    both = each(thumbnails=False)
    within = each(thumbnails=False, video_ids=[video])
    shown = each()
    recalls = []
    for text in texts[:30]:
        exact, approximate = (nearest(searcher, text, exact=e) for e in (True, False))
        recalls.append(len(exact & approximate) / len(exact))
    size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    cells = [f"{count}", f"{size / 1e6:.0f}", f"{indexed_s:.0f}"]
    cells += [f"{1000 * value:.0f}" for times in (vectors, both) for value in (median(times), high(times))]
    cells += [f"{1000 * high(within):.0f}", f"{1000 * high(shown):.0f}", f"{statistics.mean(recalls):.2f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def nearest(searcher: Prepared, text: str, *, exact: bool) -> set[str]:
    """Where the ten best moments of a search for vectors begin."""
    found = searcher.search(text, k=10, signals=("vectors",), exact=exact, thumbnails=False)
    return {f"{each.segment_id} {each.timestamp_s}" for each in found}


def make_archive(place: str, count: int, vectors: int, size: int, chance: np.random.Generator) -> np.ndarray:
    """An archive of ``count`` slots; some of their vectors [X, size]."""
    models = open_models("demo")
    recipe = Recipe(
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
    archive = Archive.create_or_open(place, recipe, size)
    segments = -(-count // SLOTS_A_SEGMENT)
    videos = -(-segments // SEGMENTS_A_VIDEO)
    now = datetime.now(UTC)
    append(
        archive, "videos", pa.Table.from_pylist([video_row(n, recipe, now) for n in range(videos)], VIDEOS)
    )
    rows = [segment_row(n, recipe) for n in range(segments)]
    append(archive, "segments", pa.Table.from_pylist(rows, SEGMENTS))
    texts = [text_row(row, " ".join(chance.choice(WORDS, 12)), now) for row in rows]
    append(archive, "annotations", pa.Table.from_pylist(texts, ANNOTATIONS))
    # Slots of one look share it across the archive: that is what makes one nearer to a query than others.
    looks = unit(chance.standard_normal((max(10, count // 20), vectors, size), np.float32))
    seen = []
    for begin in range(0, count, SLOTS_A_WRITE):
        numbers = range(begin, min(count, begin + SLOTS_A_WRITE))
        look = looks[chance.integers(len(looks), size=len(numbers))]
        found = unit(look + 0.6 * unit(chance.standard_normal(look.shape, np.float32)))
        seen.append(found[:50, 0])
        append(archive, "memories", slot_rows(numbers, found, archive.schema("memories")))
    return np.concatenate(seen)


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
    return pa.Table.from_arrays(
        [lists if field.name == "vectors" else pa.array(columns[field.name], field.type) for field in schema],
        schema=schema,
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors, of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def timed(what: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def median(times: Sequence[float]) -> float:
    """The 50th percentile."""
    return float(np.percentile(times, 50))


def high(times: Sequence[float]) -> float:
    """The 95th percentile."""
    return float(np.percentile(times, 95))


if __name__ == "__main__":
    main()
