"""Time of a page of results over many slots, and searches of several clients next to the floor of their parts.

    python benchmarks/page.py build/page --slots 100000 [--clients 8]

A synthetic archive with real tables and the indexes that a run makes, and the demo model's text tower. First one
client: a page of 24 results, its pictures, and the page after it. Then several clients at once, each of which searches
as soon as it is answered, over HTTP. The floor is what a search cannot do without, called directly by as many threads:
encoding the text, looking at the index, looking up the words, and reading the rows of the results. CPU is that of this
process, which serves; the clients are a process of their own. The ratios are those of a search over HTTP to the floor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from page_clients import PAGE
from synthetic_archive import WORDS, SyntheticArchive

from malmm.pipeline import Archive, Searcher
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.searching.candidates import Candidates
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

SIZE, VECTORS = 64, 16


def main() -> None:
    """Make the archive unless it is there, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the archive is kept, and found again")
    parser.add_argument("--slots", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=50, help="of the one client (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="at once (%(default)s)")
    parser.add_argument("--searches", type=int, default=50, help="of each of the clients (%(default)s)")
    options = parser.parse_args()
    place = str(options.folder / f"archive-{options.slots}")
    if not Path(place).exists():
        made = SyntheticArchive(place, VECTORS, SIZE, options.slots, np.random.default_rng(0))
        made.grow(options.slots)
        # As a run leaves it: small files merged, and indexes up to date.
        Archive.open(place).compact(at_least=2)
        Archive.open(place).update_indexes(at_once=True)
    chance = np.random.default_rng(1)
    count = options.clients * options.searches
    texts = [" ".join(chance.choice(WORDS, 3)) for _ in range(options.queries + 3 + 2 * count)]
    alone(place, texts[: options.queries + 3])
    floor = of_parts(place, texts[-count:], options.clients)
    report("floor of the parts", *floor)
    with served(make_app(ServeConfig(place))) as address:
        clients = [
            sys.executable,
            str(Path(__file__).with_name("page_clients.py")),
            address,
            str(options.clients),
        ]

        def search(some: Sequence[str]) -> dict[str, list[float]]:
            ended = subprocess.run(clients, input="\n".join(some), check=True, capture_output=True, text=True)
            return dict(json.loads(ended.stdout))

        # The first searches load the tower.
        search(texts[: options.clients])
        began = time.process_time()
        said = search(texts[-2 * count : -count])
        spent_s = time.process_time() - began
    whole = (said["took_s"], said["all_s"], spent_s)
    report("the page's search", *whole)  # type: ignore[arg-type]
    (took, all_s, cpu_s), (floor_took, floor_s, floor_cpu_s) = whole, floor
    ratios = (np.median(took) / np.median(floor_took), high(took) / high(floor_took))
    print(
        f"| ratio | {floor_s / all_s:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {cpu_s / floor_cpu_s:.2f} |"  # type: ignore[operator]
    )


def alone(place: str, texts: Sequence[str]) -> None:
    """Print times of one client's pages; the first three searches open what is kept."""
    times: dict[str, list[float]] = {"page": [], "its pictures": [], "the page after": []}
    with TestClient(make_app(ServeConfig(place)), base_url="http://localhost") as client:
        for number, text in enumerate(texts):
            query = {"text": text, "limit": str(PAGE), "explain": "true"}
            marks = [time.perf_counter()]
            page = client.get("/api/search", params=query).json()
            marks.append(time.perf_counter())
            for card in page["moments"]:
                if card["thumbnail"]:
                    client.get("/" + card["thumbnail"]).raise_for_status()
            marks.append(time.perf_counter())
            client.get("/api/search", params=query | {"cursor": page["next"]}).raise_for_status()
            marks.append(time.perf_counter())
            if number >= 3:
                for values, took_s in zip(times.values(), np.diff(marks).tolist(), strict=True):
                    values.append(took_s)
    print("| one client | p50 ms | p95 ms |\n|---|---|---|")
    for name, values in times.items():
        print(f"| {name} | {1000 * np.median(values):.0f} | {1000 * high(values):.0f} |")
    print(flush=True)


def of_parts(place: str, texts: Sequence[str], threads: int) -> tuple[list[float], float, float]:
    """Seconds of each search made of the parts alone, by several threads, of all together, and of CPU."""
    searcher = Searcher(place)
    candidates = Candidates(searcher.archive)
    encoding = threading.Lock()
    spent: dict[str, float] = {}

    def timed(name: str, part: Callable[[], object]) -> None:
        began = time.process_time()
        part()
        spent[name] = spent.get(name, 0.0) + time.process_time() - began

    def one(text: str) -> float:
        began = time.perf_counter()
        with encoding:
            [vector] = searcher.text_vectors([text])
        candidates.slots(vector, 100, Scope())
        candidates.hits(text, 100, Scope())
        searcher.shown(moments, thumbnails=False)
        return time.perf_counter() - began

    moments = searcher.ranked(SearchQuery(text=texts[0]))[:PAGE]
    for text in texts[:20]:
        [vector] = searcher.text_vectors([text])
        timed("encoding", lambda text=text: searcher.text_vectors([text]))  # type: ignore[misc]
        timed("index", lambda vector=vector: candidates.slots(vector, 100, Scope()))  # type: ignore[misc]
        timed("texts", lambda text=text: candidates.hits(text, 100, Scope()))  # type: ignore[misc]
        timed("rows", lambda: searcher.shown(moments, thumbnails=False))
    print("CPU ms of each part, alone: " + ", ".join(f"{name} {50 * s:.0f}" for name, s in spent.items()))
    print(
        f"\n| {threads} at once | searches a second | p50 ms | p95 ms | CPU ms of a search |\n|---|---|---|---|---|"
    )
    began, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as workers:
        took = list(workers.map(one, texts))
    return took, time.perf_counter() - began, time.process_time() - cpu


@contextlib.contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a free port, in a thread. Yields its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def report(name: str, took: Sequence[float], all_s: float, cpu_s: float) -> None:
    """Print a row of the table of several clients."""
    print(
        f"| {name} | {len(took) / all_s:.1f} | {1000 * np.median(took):.0f} | {1000 * high(took):.0f} "
        f"| {1000 * cpu_s / len(took):.0f} |",
        flush=True,
    )


def high(times: Sequence[float]) -> float:
    """The 95th percentile."""
    return float(np.percentile(times, 95))


if __name__ == "__main__":
    main()
