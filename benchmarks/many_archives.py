"""Time and recall of one question to many archives, next to one archive that holds the same rows.

    python benchmarks/many_archives.py [--archives 10] [--slots 100000] [--vectors 16] [--size 64] [--queries 100]

Makes archives with real tables, as ``benchmarks/search.py`` does, and searches them as one with
``malmm.pipeline.Searcher``. The query's vector is given. ``recall@10`` and ``recall@100`` are the shares of the nearest
slots of all archives (by exact search) that the search through their indexes finds. Milliseconds are wall time beside
encoding the query; CPU is of this process, all threads. ``--keep DIR`` keeps the archives, and uses them if they are
there.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from synthetic_archive import SLOTS_A_VIDEO, WORDS, SyntheticArchive

from malmm.pipeline import Archive, Searcher
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.several import candidates_of


def main() -> None:
    """Make the archives, search them, and print a row for each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archives", type=int, default=10)
    parser.add_argument("--slots", type=int, default=100_000, help="of each archive (%(default)s)")
    parser.add_argument("--vectors", type=int, default=16, help="a slot (%(default)s)")
    parser.add_argument("--size", type=int, default=64, help="numbers a vector (%(default)s)")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--without-one", action="store_true", help="do not compare with one archive")
    parser.add_argument("--keep", metavar="DIR", help="make the archives here, or use those that are here")
    options = parser.parse_args()
    if options.keep:
        run(Path(options.keep), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), options)


def run(folder: Path, options: argparse.Namespace) -> None:
    """Make what is missing, and measure."""
    # Whole videos, each in one archive.
    slots = -(-options.slots // SLOTS_A_VIDEO) * SLOTS_A_VIDEO
    places = [folder / f"part-{number}" for number in range(options.archives)]
    queries = make(places, slots, options)
    print(
        f"{options.archives} archives of {slots} slots of {options.vectors} vectors of {options.size}; "
        f"{options.queries} queries\n"
    )
    print(
        "| searched | vectors, first time p95 ms | p50 ms | p95 ms | CPU ms "
        "| with texts, first time p95 ms | p50 ms | p95 ms | CPU ms | recall@10 | recall@100 |"
    )
    print("|---" * 11 + "|", flush=True)
    measure("as one", [str(place) for place in places], queries, options)
    measure("the first alone", [str(places[0])], queries, options)
    if not options.without_one:
        whole = folder / "whole"
        make([whole], slots * options.archives, options)
        measure("one archive of all rows", [str(whole)], queries, options)


def make(places: Sequence[Path], slots: int, options: argparse.Namespace) -> np.ndarray:
    """Make those archives that are not there yet, of different videos. Returns unit vectors [queries, size]."""
    found = []
    for number, place in enumerate(places):
        kept = place.with_name(f"{place.name}-queries.npy")
        if not kept.exists():
            made = SyntheticArchive(
                str(place), options.vectors, options.size, slots, np.random.default_rng(number)
            )
            made.slots = number * slots
            made.grow(slots)
            # As a run leaves it: small files merged, and indexes up to date.
            Archive.open(str(place)).compact(at_least=2)
            Archive.open(str(place)).update_indexes(at_once=True)
            np.save(kept, made.queries(options.queries))
        found.append(np.load(kept))
    return np.concatenate(found)[np.random.default_rng(0).permutation(len(found) * len(found[0]))][
        : options.queries
    ]


def measure(name: str, places: list[str], queries: np.ndarray, options: argparse.Namespace) -> None:
    """Print a row of the table."""
    searcher = Searcher(places if len(places) > 1 else places[0])
    chance = np.random.default_rng(1)
    texts = [" ".join(chance.choice(WORDS, 3)) for _ in queries]
    cells = [name]
    for signals in (("vectors",), ("vectors", "text")):
        rounds = [asked(searcher, signals, texts, queries) for _ in range(2)]
        # The first opens the tables.
        cells.append(f"{np.quantile(rounds[0][0][1:], 0.95):.0f}")
        took, cpu = rounds[1]
        cells += [
            f"{statistics.median(took):.0f}",
            f"{np.quantile(took, 0.95):.0f}",
            f"{statistics.mean(cpu):.0f}",
        ]
    candidates = candidates_of(searcher.archive)
    for count in (10, 100):
        shares = []
        for vector in queries[:30]:
            # As the product asks: for a hundred candidates.
            exact, approximate = (
                {
                    (slot.segment_id, slot.slot)
                    for slot in candidates.slots(vector, 100, Scope(), exact=way)[:count]
                }
                for way in (True, False)
            )
            shares.append(len(exact & approximate) / len(exact))
        cells.append(f"{statistics.mean(shares):.3f}")
    print("| " + " | ".join(cells) + " |", flush=True)


def asked(
    searcher: Searcher, signals: tuple[str, ...], texts: Sequence[str], queries: np.ndarray
) -> tuple[list[float], list[float]]:
    """Milliseconds of each query, by the clock and of CPU."""
    took, cpu = [], []
    for text, vector in zip(texts, queries, strict=True):
        began, spent = time.perf_counter(), time.process_time()
        found = searcher.ranked(SearchQuery(text=text, signals=signals), vector)
        searcher.shown(found[:10], thumbnails=False)
        took.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - spent))
    return took, cpu


if __name__ == "__main__":
    main()
