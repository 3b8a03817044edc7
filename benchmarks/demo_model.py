"""Score a model that was trained on drawn videos on other drawn videos, against their truth.

    python benchmarks/demo_model.py WORK_DIR --model DIR [--tables 1 2 ...] [--videos 50] [--processes 2]

Draws the videos into WORK_DIR as H.264 files, which are kept for the next run. Each goes through all steps of a run:
decoder, vision encoder, banks, Q-Former, language model. An answer counts if it equals the truth exactly. Prints
tables in Markdown.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import torch
from demo_bench import QUESTIONS_A_PASS, Bench, Clip, Score, chosen, described_and
from torch import Tensor

from malmm.model.demo.questions import DESCRIBE, KINDS, describe_object, sampled
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.towers.blip2 import RetrievalModel

# Minutes, and how many videos of that length.
_LENGTHS = ((1, 10), (2, 6), (5, 3), (10, 1), (30, 1))


def by_kind(bench: Bench) -> None:
    """Tables 1 and 2: single scenes, and segments of 4 to 6 scenes at M = 10."""
    single = bench.clips("single", 5, bench.videos, lambda scenes: scenes == 1)
    several = bench.clips("several", 60, bench.videos, lambda scenes: 4 <= scenes <= 6)
    columns = []
    for clips in (single, several):
        score = Score()
        for clip in clips:
            score.add(clip.questions, bench.online(clip, clip.questions, MemorySettings(10))[0])
        columns.append(score)
    rows = [["all questions", *(percent(score.answers) for score in columns)]]
    for kind in KINDS:
        name = "whole description" if kind == DESCRIBE else kind
        rows.append([name, *(percent(score.of_kind(kind)) for score in columns)])
    counts = [f"{len(score.results)} questions" for score in columns]
    table(
        f"1 and 2. Right to the letter, M = 10 ({', '.join(counts)})",
        ["", "one scene", "4 to 6 scenes, 60 s"],
        rows,
    )


def ablations(bench: Bench) -> None:
    """Table 3: which banks, which way to make room, and how long a bank."""
    clips = bench.clips("several", 60, bench.videos, lambda scenes: 4 <= scenes <= 6)
    cases = {
        "no bank": MemorySettings(10, visual=False, query=False),
        "query bank only": MemorySettings(10, visual=False),
        "visual bank only": MemorySettings(10, query=False),
        "both banks": MemorySettings(10),
        "both, first in first out": MemorySettings(10, "fifo"),
        "both, average pooling": MemorySettings(10, "average"),
        "both, whole frames merged": MemorySettings(10, "frame"),
    } | {f"both, M = {length}": MemorySettings(length) for length in (1, 2, 5, 20, 40)}
    rows = []
    for name, settings in cases.items():
        score = Score()
        for clip in clips:
            asked = described_and(clip)
            score.add(asked, bench.online(clip, asked, settings)[0])
        rows.append([name, *map(percent, (score.answers, score.early(2), score.descriptions))])
        print("  " + "  ".join(rows[-1]), flush=True)
    table(
        "3. Same weights, same questions; M = 10 unless said",
        ["", "questions", "about scenes 1 and 2", "descriptions"],
        rows,
    )


def lengths(bench: Bench) -> None:
    """Table 4: one pass over longer and longer videos at a fixed bank."""
    rows = []
    settings = MemorySettings(20)
    for minutes, count in _LENGTHS:
        score, slots, took, frames = Score(), 0, 0.0, 0
        scenes = []
        for clip in bench.clips("long", 60 * minutes, count):
            asked = sampled(clip.questions, QUESTIONS_A_PASS)
            began = time.perf_counter()
            texts, memory = bench.online(clip, asked, settings)
            took += time.perf_counter() - began
            frames += len(clip.frames)
            score.add(asked, texts)
            slots = max(slots, len(memory))
            scenes.append(len(clip.scenes))
        size = slots * memory.tokens[0].numel() * 2 / 1024
        rows.append(
            [
                f"{minutes}",
                f"{statistics.mean(scenes):.0f}",
                percent(score.answers),
                percent(score.of_kind("exists")),
                percent(score.share(lambda q: q.kind in ("first", "last"))),
                f"{slots} slots, {size:.0f} KiB",
                f"{1000 * took / frames:.0f} ms",
            ]
        )
        print("  " + "  ".join(rows[-1]), flush=True)
    table(
        "4. One pass over a whole video, M = 20",
        ["minutes", "scenes", "questions", "does it appear", "first and last", "stored memory", "a frame"],
        rows,
    )


def merged(bench: Bench) -> None:
    """Table 5: one sequential pass against segments merged."""
    settings = MemorySettings(20)
    whole, parts, same, total = Score(), Score(), 0, 0
    for clip in bench.clips("long", 300, 6):
        asked = sampled(clip.questions, 48)
        one, _ = bench.online(clip, asked, settings)
        memory = bench.encoder.merge(bench.segments(clip, 100, settings), settings)
        other = bench.replayed(memory, asked, settings)
        whole.add(asked, one)
        parts.add(asked, other)
        same += sum(a == b for a, b in zip(one, other, strict=True))
        total += len(asked)
    rows = [
        ["one pass over 300 frames", percent(whole.answers)],
        ["three segments of 100 s, merged and replayed", percent(parts.answers)],
        ["the same answer", percent(same / total)],
    ]
    table(f"5. Videos of 5 minutes, M = 20 ({total} questions)", ["", "questions"], rows)


def replays(bench: Bench) -> None:
    """Table 6: online answers against replayed ones."""
    rows = []
    for length in (10, 20):
        settings = MemorySettings(length)
        online, replayed, same, total = Score(), Score(), 0, 0
        for clip in bench.clips("several", 60, bench.videos, lambda scenes: 4 <= scenes <= 6):
            asked = described_and(clip)
            said, memory = bench.online(clip, asked, settings)
            again = bench.replayed(memory, asked, settings)
            online.add(asked, said)
            replayed.add(asked, again)
            same += sum(a == b for a, b in zip(said, again, strict=True))
            total += len(said)
        rows.append(
            [
                f"{length}",
                *map(percent, (online.answers, replayed.answers, same / total)),
                *map(percent, (online.descriptions, replayed.descriptions)),
            ]
        )
    table(
        "6. Online against replayed, 4 to 6 scenes",
        ["M", "online", "replayed", "the same answer", "descriptions online", "descriptions replayed"],
        rows,
    )


def retrieval(bench: Bench) -> None:
    """Table 7: the right scene among all slots of the videos, for a phrase that one scene fits."""
    assert bench.retrieval is not None, "the model has no retrieval companion"
    clips = bench.clips("several", 60, bench.videos, lambda scenes: 4 <= scenes <= 6)
    rows = []
    for length in (10, 20):
        vectors, slots = [], []
        for number, clip in enumerate(clips):
            memory = bench.segments(clip, 60, MemorySettings(length))[0]
            vectors.append(bench.retrieval.slot_vectors(memory.tokens))
            slots += [
                (number, span.start_s, span.end_s) for span in memory.spans(clip.times_s, 0.0, clip.seconds)
            ]
        vectors_SQV = torch.cat(vectors)
        for name, held in (("all vectors of a slot", vectors_SQV), ("their mean", _mean(vectors_SQV))):
            for kind, motion in (("with motion", True), ("colour and shape", False)):
                rows.append([f"{length}", name, kind, *_recall(bench.retrieval, clips, slots, held, motion)])
    table(
        f"7. Retrieval among all slots of {len(clips)} videos of a minute",
        ["M", "vectors", "phrases", "asked", "recall@1", "recall@5", "mean overlap of the first"],
        rows,
    )


def _recall(
    model: RetrievalModel,
    clips: Sequence[Clip],
    slots: Sequence[tuple[int, float, float]],
    vectors_SQV: Tensor,
    motion: bool,
) -> list[str]:
    """Recall over phrases that describe the objects of exactly one scene, or of several equally well."""
    right: dict[str, list[tuple[int, float, float]]] = {}
    for number, clip in enumerate(clips):
        for scene in clip.scenes:
            for thing in scene.objects:
                if not motion or thing.motion != "still":
                    phrase = describe_object(thing, motion=motion)
                    right.setdefault(phrase, []).append((number, scene.start_s, scene.end_s))
    phrases = sorted(right)
    words = model.text_vectors(phrases)
    scores = torch.einsum("sqv,bv->bsq", vectors_SQV, words).amax(-1)
    first, five, overlaps = [], [], []
    for phrase, row in zip(phrases, scores, strict=True):
        best = row.argsort(descending=True)[:5].tolist()
        hits = [max(_overlap(slots[slot], scene) for scene in right[phrase]) for slot in best]
        first.append(float(hits[0] > 0))
        five.append(float(max(hits) > 0))
        overlaps.append(float(hits[0]))
    return [
        f"{len(phrases)}",
        percent(statistics.mean(first)),
        percent(statistics.mean(five)),
        f"{statistics.mean(overlaps):.2f}",
    ]


def _overlap(slot: tuple[int, float, float], scene: tuple[int, float, float]) -> float:
    """The share of a slot's span that lies within a scene, 0 in another video or when it is under half."""
    if slot[0] != scene[0]:
        return 0.0
    inside = min(slot[2], scene[2]) - max(slot[1], scene[1])
    share = inside / max(slot[2] - slot[1], 1e-9)
    return share if share >= 0.5 else 0.0


def _mean(vectors_SQV: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors_SQV.mean(1, keepdim=True), dim=-1)


def percent(share: float) -> str:
    """A share as tables print it."""
    return "none asked" if math.isnan(share) else f"{100 * share:.1f} %"


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


TABLES = {1: by_kind, 3: ablations, 4: lengths, 5: merged, 6: replays, 7: retrieval}


def main() -> None:
    """Measure and print the tables."""
    bench, numbers = chosen(__doc__, "--tables", TABLES)
    for number in numbers:
        TABLES[number](bench)


if __name__ == "__main__":
    main()
