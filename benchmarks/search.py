"""Time of a search by the archive's size, and recall of the index.

    python benchmarks/search.py [--slots 1000 10000 100000] [--vectors 16] [--size 64] [--queries 100]
    python benchmarks/search.py --grow 2000 20000 [--runs 10] [--upkeep parts 0.1 appended]
    python benchmarks/search.py --grow 20000 200000 --sizes 23000 60000 64000 130000 --upkeep parts

Makes archives with real tables: memory slots with random vectors in clusters, like those of a video's scenes, and a
caption for each segment. Updates their indexes as a run does, and searches them with ``malmm.pipeline.Searcher``. 16
vectors of 64 are the demo model's, 32 of 256 those of published BLIP-2 checkpoints. The query's vector is given, since
the text tower's time does not depend on the archive; that time is measured separately, for the demo model.
``recall@10`` is the share of the ten nearest slots (by exact search) that the search through the index finds among its
ten.

With ``--grow`` an archive grows in runs, and a quarter of it is deleted on the way. After each run there is a row with
the cost of the indexes' upkeep, and with recall and time of a search, next to those of an index made of all rows at
once. The upkeep is this product's (``parts``), that of version 0.1 (IVF_PQ, Lance's default optimizing), or an IVF_SQ
that is only appended to (``appended``).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lancedb.index import IvfPq, IvfSq
from synthetic_archive import WORDS, SyntheticArchive

from malmm.model.checkpoints.resolve import open_models
from malmm.model.towers.blip2 import RetrievalModel
from malmm.pipeline import Archive, ArchiveReader, Searcher
from malmm.pipeline.archive.index_states import index_states
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.archive.search_indexes import EXACT_ROWS
from malmm.pipeline.archive.vector_index import VECTORS_INDEX, partitions_for
from malmm.pipeline.searching.candidates import Candidates

# Kinds of upkeep that are compared: this product's, and what Lance and version 0.1 do.
UPKEEPS = ("parts", "0.1", "appended")


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
    parser.add_argument(
        "--grow", type=int, nargs=2, metavar=("FROM", "TO"), help="grow one archive in runs instead"
    )
    parser.add_argument("--runs", type=int, default=10, help="of like growth, with --grow (%(default)s)")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[],
        help="in place of --runs, sizes on the way: runs as uneven as told",
    )
    parser.add_argument("--upkeep", nargs="+", choices=UPKEEPS, default=list(UPKEEPS), help="with --grow")
    options = parser.parse_args()
    if options.grow:
        grow(options)
        return
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
    made = SyntheticArchive(place, options.vectors, options.size, count, chance)
    made.grow(count)
    archive = ArchiveReader.open(place)
    # As a run leaves it: small files merged, and indexes up to date.
    Archive.open(place).compact(at_least=2)
    indexed_s = timed(lambda: Archive.open(place).update_indexes(at_once=True))
    searcher = Prepared(archive)
    searcher.queries = made.queries(options.queries)
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


def grow(options: argparse.Namespace) -> None:
    """Print a row for each run in which an archive grows, for each kind of upkeep."""
    first, last = options.grow
    even = [round(first + (last - first) * run / options.runs) for run in range(options.runs + 1)]
    sizes = [first, *options.sizes, last] if options.sizes else even
    runs = len(sizes) - 1
    print(
        f"slots of {options.vectors} vectors of {options.size}, {options.queries} queries a step; after half of the "
        "runs a quarter of the slots is deleted. CPU seconds are this process's.\n"
    )
    print(
        "| upkeep | slots | kind and partitions | upkeep CPU s | recall@10 | recall@100 | p50 ms | p95 ms "
        "| CPU ms | at once: p50 ms | CPU ms | ratio of CPU |"
    )
    print("|---" * 12 + "|", flush=True)
    for upkeep in options.upkeep:
        with tempfile.TemporaryDirectory() as folder:
            chance = np.random.default_rng(0)
            made = SyntheticArchive(f"{folder}/archive", options.vectors, options.size, last, chance)
            for run, size in enumerate(sizes):
                # What is new shows what was not there before.
                made.grow(size - made.slots, looks=0.3 + 0.7 * run / runs)
                took_s = keep_up(made.archive, upkeep)
                report(upkeep, made, took_s, options, folder)
                if run == runs // 2:
                    with made.archive.held():
                        made.archive.changes.delete(
                            "memories", "segment_id", made.archive.segments()["segment_id"].to_pylist()[::4]
                        )
                    took_s = keep_up(made.archive, upkeep)
                    report(f"{upkeep}, deleted", made, took_s, options, folder)


def keep_up(archive: Archive, upkeep: str) -> float:
    """Do what a run does at its end, and return the CPU seconds of the indexes."""
    archive.compact(at_least=2)
    began = time.process_time()
    if upkeep == "parts":
        archive.update_indexes()
    else:
        index_otherwise(archive, upkeep)
    return time.process_time() - began


def index_otherwise(archive: Archive, upkeep: str) -> None:
    """Make or update the index of vectors as another kind of upkeep would."""
    table = archive.table("memories")
    index = next((index for index in table.list_indices() if index.columns == ["vectors"]), None)
    rows = table.count_rows()
    if index is None and rows >= EXACT_ROWS:
        size = table.schema.field("vectors").type.value_type.list_size
        parts = partitions_for(rows * len(table.search().limit(1).to_arrow()["vectors"][0]))
        kinds = {
            "0.1": IvfPq(distance_type="cosine", num_partitions=parts, num_sub_vectors=size // 8),
            "appended": IvfSq(
                distance_type="cosine", num_partitions=parts, sample_rate=32, max_iterations=10
            ),
        }
        table.create_index("vectors", config=kinds[upkeep], name=VECTORS_INDEX)
    elif index is not None:
        more = {} if upkeep == "0.1" else {"num_indices_to_merge": 1}
        archive.tables.dataset("memories").optimize.optimize_indices(index_names=[VECTORS_INDEX], **more)


def report(
    upkeep: str, made: SyntheticArchive, took_s: float, options: argparse.Namespace, folder: str
) -> None:
    """One row of the table of growth."""
    queries = made.queries(options.queries)
    shares, times, spent = asked(made.archive, queries)
    state = next((state for state in index_states(made.archive.tables) if state.column == "vectors"), None)
    kind = "none" if state is None else f"{state.kind} {' + '.join(map(str, state.partitions))}"
    cells = [upkeep, f"{made.archive.count('memories')}", kind, f"{took_s:.1f}"]
    cells += [f"{share:.3f}" for share in shares]
    cells += [f"{1000 * value:.0f}" for value in (median(times), high(times), spent)]
    if state is not None:
        # The same rows with an index that was made of all at once.
        copy = Path(folder, "at-once")
        shutil.copytree(made.archive.uri, copy)
        fresh = Archive.open(str(copy))
        fresh.table("memories").drop_index(VECTORS_INDEX)
        fresh.update_indexes(at_once=True)
        _, at_once, at_once_spent = asked(fresh, queries)
        shutil.rmtree(copy)
        cells += [
            f"{1000 * median(at_once):.0f}",
            f"{1000 * at_once_spent:.0f}",
            f"{spent / at_once_spent:.2f}",
        ]
    print("| " + " | ".join(cells) + " |", flush=True)


def asked(archive: Archive, queries: np.ndarray) -> tuple[list[float], list[float], float]:
    """Recall@10 and @100 against exact search, seconds of each search, and the CPU seconds of one."""
    candidates = Candidates(archive)
    candidates.slots(queries[0], 100, Scope())
    found, times = [], []
    began = time.process_time()
    for query in queries:
        times.append(timed(lambda query=query: found.append(candidates.slots(query, 100, Scope()))))  # type: ignore[misc]
    spent = (time.process_time() - began) / len(queries)
    shares: list[list[float]] = []
    for query, slots in zip(queries, found, strict=True):
        exact = candidates.slots(query, 100, Scope(), exact=True)
        pairs = [
            {(slot.segment_id, slot.slot) for slot in some[:k]} for k in (10, 100) for some in (exact, slots)
        ]
        shares.append([len(pairs[0] & pairs[1]) / len(pairs[0]), len(pairs[2] & pairs[3]) / len(pairs[2])])
    return np.mean(shares, axis=0).tolist(), times, spent


def nearest(searcher: Prepared, text: str, *, exact: bool) -> set[str]:
    """Where the ten best moments of a search for vectors begin."""
    found = searcher.search(text, k=10, signals=("vectors",), exact=exact, thumbnails=False)
    return {f"{each.segment_id} {each.timestamp_s}" for each in found}


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
