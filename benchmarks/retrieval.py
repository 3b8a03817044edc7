"""Quality of search and answers: the tables of docs/retrieval.md.

Draws videos with seeds that training never saw, indexes them with the demo model through the command line, and searches
for what was drawn. A search is right if its first moment lies in a scene that matches the phrase, for at least half of
the moment or of the scene.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from malmm.model.demo.questions import PROMPTS, describe_object, questions
from malmm.model.demo.videos import read_truth
from malmm.model.demo.world import COLOURS, SHAPES, Scene
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.searching.asker import Asker
from malmm.pipeline.searching.relevance import Relevance, balanced_threshold, relevance_of
from malmm.pipeline.searching.searcher import Searcher

Span = tuple[str, float, float]
UNHEARD_OF = [f"{c} {s}" for c in ("orange", "pink", "black") for s in ("hexagon", "car", "dog", "arrow")]
LOCAL = ("colour", "shape", "motion", "exists")


def main() -> None:
    """Prepare what is missing, then measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where videos and archive are kept, and found again")
    parser.add_argument("--videos", type=int, default=50, help="how many (%(default)s)")
    parser.add_argument("--minutes", type=float, default=5, help="how long each (%(default)g)")
    parser.add_argument(
        "--seed", type=int, default=51, help="of the videos, and the four after it (%(default)s)"
    )
    parser.add_argument("--tables", default="1,2,3,4", help="which tables (%(default)s)")
    options = parser.parse_args()
    archive, truth = prepare(options)
    for number in options.tables.split(","):
        {"1": searches, "2": lengths, "3": relevance, "4": answers}[number](archive, truth)


def prepare(options: argparse.Namespace) -> tuple[ArchiveReader, dict[str, list[Scene]]]:
    """The archive, and each video's scenes by its id."""
    videos, place = options.folder / "videos", options.folder / "archive"
    malmm = [sys.executable, "-m", "malmm.jobs.cli"]
    if len(list(videos.glob("*.mp4"))) < options.videos:
        # The same videos whatever the machine's size: five seeds, as many at once as there are cores.
        shares = [len(range(part, options.videos, 5)) for part in range(min(5, options.videos))]

        def draw(part: int) -> None:
            size = ["--count", str(shares[part]), "--minutes", str(options.minutes)]
            command = [*malmm, "demo-videos", str(videos), *size, "--seed", str(options.seed + part)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(draw, range(len(shares))))
    began = time.monotonic()
    subprocess.run(
        [*malmm, "index", str(videos), "--archive", str(place), "--model", "demo", "--quiet"], check=True
    )
    print(f"indexed, or found to be, in {time.monotonic() - began:.0f} s\n")
    archive = ArchiveReader.open(str(place))
    truth = {row["video_id"]: read_truth(Path(row["uri"])) for row in archive.videos().to_pylist()}
    return archive, truth


def phrases(truth: dict[str, list[Scene]], *, motion: bool) -> dict[str, list[Span]]:
    """What can be looked for, and every scene that it fits. Without motion, all thirty objects."""
    found: dict[str, list[Span]] = {}
    for video, scenes in truth.items():
        for scene in scenes:
            for thing in scene.objects:
                if not motion or thing.motion != "still":
                    text = describe_object(thing, motion=motion)
                    found.setdefault(text, []).append((video, scene.start_s, scene.end_s))
    return found


def overlap(span: Span, scene: Span) -> float:
    """Intersection over union, 0 in another video."""
    if span[0] != scene[0]:
        return 0.0
    shared = min(span[2], scene[2]) - max(span[1], scene[1])
    return max(0.0, shared) / (max(span[2], scene[2]) - min(span[1], scene[1]))


def hits(span: Span, scene: Span) -> bool:
    """Whether half of the moment, or of the scene, is shared."""
    if span[0] != scene[0]:
        return False
    shared = min(span[2], scene[2]) - max(span[1], scene[1])
    return shared >= min(span[2] - span[1], scene[2] - scene[1]) / 2


def scored(found: Callable[[str], Sequence[Span]], wanted: dict[str, list[Span]]) -> list[str]:
    """Recall at 1, 5 and 10 and the mean overlap of the first."""
    ranks, overlaps = [], []
    for text, scenes in wanted.items():
        spans = found(text)
        right = [any(hits(span, scene) for scene in scenes) for span in spans]
        ranks.append(right.index(True) if True in right else 10**6)
        overlaps.append(max(overlap(spans[0], scene) for scene in scenes) if spans else 0.0)
    cells = [percent(statistics.mean(rank < k for rank in ranks)) for k in (1, 5, 10)]
    return [str(len(wanted)), *cells, f"{statistics.mean(overlaps):.2f}"]


def searches(archive: ArchiveReader, truth: dict[str, list[Scene]]) -> None:
    """Table 1: ways to search, over all videos and within one."""
    searcher = Searcher(archive)
    rows = []
    slots = archive.memory_rows(
        sorted(archive.completed_segments()), ("video_id", "start_s", "end_s", "vectors")
    )
    spans = list(zip(*(slots[name].to_pylist() for name in ("video_id", "start_s", "end_s")), strict=True))
    vectors = np.asarray(slots["vectors"].to_pylist(), np.float32)
    mean = vectors.mean(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)

    def by_mean(text: str) -> list[Span]:
        return [spans[place] for place in np.argsort(-(mean @ searcher.text_vectors([text])[0]))[:10]]

    def by_search(**options: Any) -> Callable[[str], list[Span]]:
        return lambda text: [
            (each.video_id, each.start_s, each.end_s)
            for each in searcher.search(text, k=10, thumbnails=False, **options)
        ]

    ways = {
        "one mean vector a slot": by_mean,
        "multivector": by_search(signals=("vectors",)),
        "multivector and full text": by_search(),
        "the same, re-ranked": by_search(rerank=True),
        "full text alone": by_search(signals=("text",)),
    }
    for kind, motion in (("colour and shape", False), ("with motion", True)):
        wanted = phrases(truth, motion=motion)
        for name, way in ways.items():
            rows.append([name, kind, *scored(way, wanted)])
    chance = random.Random(1)
    single: dict[str, list[Span]] = {}
    for video, scenes in truth.items():
        own = phrases({video: scenes}, motion=False)
        for text in chance.sample(sorted(own), 4):
            single[f"{video} {text}"] = own[text]
    for name, options in (("multivector", {"signals": ("vectors",)}), ("multivector and full text", {})):

        def within(key: str, options: dict[str, Any] = options) -> list[Span]:
            video, text = key.split(" ", 1)
            found = searcher.search(text, k=10, video_ids=[video], thumbnails=False, **options)
            return [(each.video_id, each.start_s, each.end_s) for each in found]

        rows.append([name, "within one video", *scored(within, single)])
    hours = sum(scenes[-1].end_s for scenes in truth.values()) / 3600
    table(
        f"1. {len(truth)} videos, {hours:.1f} hours, {len(spans)} slots",
        ["way", "phrases", "asked", "recall@1", "recall@5", "recall@10", "overlap of the first"],
        rows,
    )


def lengths(archive: ArchiveReader, truth: dict[str, list[Scene]]) -> None:
    """Table 2: the bank's length against one row a frame, on ten of the videos, by slot."""
    searcher = Searcher(archive)
    models = searcher.models()
    encoder = Encoder.load(models.instructblip)
    retrieval = searcher.query_vectors.matching_model()
    assert encoder.vision is not None
    chosen = dict(sorted(truth.items())[:10])
    addresses = archive.addresses_of(chosen)
    held: dict[int, list[tuple[Span, torch.Tensor]]] = {length: [] for length in (5, 10, 20, 40, 100)}
    for video in chosen:
        for segment in archive.segments(video).to_pylist():
            begin, end = segment["start_s"], segment["end_s"]
            span = decode_span(SpanRequest(addresses[video], begin, end, 1.0, encoder.vision.image_size))
            for length, slots in held.items():
                [done] = encoder.encode([span.frames], [["Describe the video."]], MemorySettings(length))
                places = done.memory.spans(span.timestamps_s.tolist(), begin, end)
                for place, vectors in zip(places, retrieval.slot_vectors(done.memory.tokens), strict=True):
                    slots.append(((video, place.start_s, place.end_s), vectors))
    rows = []
    for length, slots in held.items():
        spans = [span for span, _ in slots]
        vectors_SQV = torch.stack([vectors for _, vectors in slots])

        def way(text: str, spans: list[Span] = spans, vectors_SQV: torch.Tensor = vectors_SQV) -> list[Span]:
            words = torch.from_numpy(searcher.text_vectors([text])[0])
            return [spans[place] for place in (vectors_SQV @ words).amax(1).argsort(descending=True)[:10]]

        name = f"M = {length}" if length < 100 else "one row a frame"
        for kind, motion in (("colour and shape", False), ("with motion", True)):
            rows.append([name, f"{len(slots)}", kind, *scored(way, phrases(chosen, motion=motion))])
    table(
        "2. Slots of ten videos by bank length, multivector, no joining of neighbours",
        ["bank", "rows", "phrases", "asked", "recall@1", "recall@5", "recall@10", "overlap of the first"],
        rows,
    )


def relevance(archive: ArchiveReader, truth: dict[str, list[Scene]]) -> None:
    """Table 3: telling what is there from what is not, for each of the thirty objects and for things never drawn.

    Measured in each segment by itself, and in half of the archive at once; there, an absent thing is searched in the
    segments without it. The threshold, how far the best slot has to stand out from the background, is chosen on one
    half of the videos and tested on the other.
    """
    searcher = Searcher(archive)
    relevant = relevance_of(archive, searcher.models().retrieval, searcher.text_vectors)
    looks = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    half_of = {video: place < len(truth) // 2 for place, video in enumerate(sorted(truth))}
    halves: list[tuple[bool, np.ndarray]] = []
    seen_s: list[list[float]] = []
    for video in sorted(truth):
        for segment in archive.segments(video).to_pylist():
            vectors = archive.slots.segment_vectors(segment["segment_id"])
            assert vectors is not None
            halves.append((half_of[video], vectors))
            seen = dict.fromkeys(looks, 0.0)
            for scene in truth[video]:
                for thing in scene.objects:
                    shared = min(segment["end_s"], scene.end_s) - max(segment["start_s"], scene.start_s)
                    seen[thing.name] += max(0.0, shared)
            seen_s.append([seen[look] for look in looks])
    first = np.array([half for half, _ in halves])
    # What is seen for a moment only, at a segment's edge, is neither there nor not.
    there, gone = np.array(seen_s) >= 3, np.array(seen_s) == 0
    slots = len(halves[0][1])
    rows, shipped = [], []
    for name, form in (("a phrase", "a {x}"), ("a question", PROMPTS["motion"][0])):
        (known, known_over), (strange, strange_over) = (
            contrasts(searcher, relevant, form, some, [vectors for _, vectors in halves])
            for some in (looks, UNHEARD_OF)
        )
        for scope in ("a segment", "half of the archive"):
            whole = scope != "a segment"
            count = slots * int((~first).sum()) if whole else slots
            by_half = {
                half: best_of(known, strange, there, gone, first == half, whole) for half in (True, False)
            }
            wanted = balanced_threshold(*by_half[True][:2])
            rows.append([scope, str(count), name, f"{wanted:.2f}", *shares(by_half[False], wanted)])
            over, odd_over = known_over(count), strange_over(count)
            both = [best_of(over, odd_over, there, gone, first == half, whole) for half in (True, False)]
            shipped.append(
                [
                    scope,
                    str(count),
                    name,
                    *shares([np.concatenate(part) for part in zip(*both, strict=True)], 0.0),
                ]
            )
    heads = ["there", "found", "not there", "said so", "unheard of", "said so"]
    searched = ["searched", "slots", "asked as"]
    title = "3. Is it there? Contrast from one half of the videos, measured on the other"
    table(title, [*searched, "contrast", *heads], rows)
    table("3b. The same as it ships, in both halves", [*searched, *heads], shipped)


def best_of(
    known: np.ndarray, strange: np.ndarray, there: np.ndarray, gone: np.ndarray, half: np.ndarray, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the best slots of what is there, is not there and is unheard of stand out, in half of the segments.

    All are [segments, things], ``half`` [segments] says which segments; with ``whole`` these are searched as one.
    """
    known, strange, there, gone = known[half], strange[half], there[half], gone[half]
    if not whole:
        return known[there], known[gone], strange.ravel()
    return known.max(0)[there.any(0)], np.where(gone, known, -np.inf).max(0), strange.max(0)


def shares(stand_out: Sequence[np.ndarray], wanted: float) -> list[str]:
    """Cells: how many are there, not there and unheard of, and the shares that are rightly found and not found."""
    own, others, unheard = stand_out
    cells = [str(len(own)), percent((own >= wanted).mean())]
    for some in (others, unheard):
        cells += [str(len(some)), percent((some < wanted).mean())]
    return cells


def contrasts(
    searcher: Searcher, relevant: Relevance, form: str, things: Sequence[str], segments: Sequence[np.ndarray]
) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
    """By how many standard deviations each segment's best slot stands out, for each thing: [segments, things].

    And by how much its cosine exceeds what the shipped rule asks of the best of so many slots.
    """
    assert relevant.background is not None
    words = searcher.text_vectors([form.format(x=thing) for thing in things])
    best = np.stack([np.einsum("bv,sqv->bsq", words, vectors).max(axis=(1, 2)) for vectors in segments])
    mean, deviation = np.array([relevant.background.level(word) for word in words]).T

    def over(count: int) -> np.ndarray:
        return best - np.array([relevant.cosine(word, count) for word in words])

    return (best - mean) / deviation, over


def answers(archive: ArchiveReader, truth: dict[str, list[Scene]]) -> None:
    """Table 4: answers from the archive against the truth, and answers about things that never appear."""
    asker = Asker(Searcher(archive))
    chance = random.Random(2)
    rows = []
    for kind in LOCAL:
        right, whole, nothing, total = 0, 0, 0, 0
        for video, scenes in truth.items():
            asked = [q for q in questions(scenes) if q.kind == kind and q.answer != "no"]
            for question in chance.sample(asked, min(2, len(asked))):
                total += 1
                reply = asker.ask(question.prompt, video_ids=[video], k=1, whole=False)
                nothing += not reply.found
                right += reply.found and reply.answers[0].text == question.answer
                whole += asker.ask(question.prompt, video_ids=[video]).answers[0].text == question.answer
        if total:
            rows.append(
                [kind, str(total), percent(right / total), percent(nothing / total), percent(whole / total)]
            )
    table(
        "4. Questions about one video, answered from the segment that search finds in it",
        ["kind", "asked", "right", "nothing found", "right from the whole video"],
        rows,
    )
    rows = []
    for name, things, scope in (
        ("an object not in the named video", None, "video"),
        ("a thing of another world, whole archive", UNHEARD_OF, "archive"),
    ):
        said, total = 0, 0
        for video, scenes in list(truth.items())[: 30 if scope == "video" else 1]:
            there = {thing.name for scene in scenes for thing in scene.objects}
            missing = things or [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in there]
            for look in missing if things else chance.sample(missing, min(2, len(missing))):
                ids = [video] if scope == "video" else None
                reply = asker.ask(PROMPTS["motion"][0].format(x=look), video_ids=ids, k=1, whole=False)
                total += 1
                said += not reply.found
        rows.append([name, str(total), percent(said / total) if total else "none asked"])
    table("5. Questions about what is not there", ["asked about", "asked", "said to be not found"], rows)


def percent(share: float) -> str:
    """Such as 95.6 %."""
    return f"{100 * share:.1f} %"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"### {title}\n")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


if __name__ == "__main__":
    main()
