"""A model trained on drawn videos, on drawn videos that it has not seen, against their truth.

    python benchmarks/demo_model.py WORK_DIR --model DIR [--tables 1 2 ...] [--videos 50] [--processes 2]

Draws the videos into WORK_DIR, H.264 files that are kept for the next run, and takes the path of a run with each: file,
decoder, vision encoder, banks, Q-Former, language model, text. An answer counts when it equals the truth to
the letter. Prints its tables in Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from malmm.model.checkpoints.resolve import open_models
from malmm.model.decoding import Decoding
from malmm.model.demo.questions import DESCRIBE, KINDS, Question, describe_object, questions
from malmm.model.demo.videos import draw_video, read_truth, truth_path
from malmm.model.demo.world import Scene, plan_scenes
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import Memory
from malmm.model.towers.blip2 import RetrievalModel
from malmm.operators.media.reader import SpanRequest, decode_span

_SEED = 90_000
_LONGEST_TEXT = 160
_BATCH = 16
# Prompts that share a pass: the description and this many others, so that a video costs one pass a setting.
_OTHERS = _BATCH - 1
# Minutes, and how many videos of that length.
_LENGTHS = ((1, 10), (2, 6), (5, 3), (10, 1), (30, 1))


@dataclass(frozen=True)
class Clip:
    """A decoded video: uint8 [T, side, side, 3] at one frame a second, its times, its truth and its length."""

    frames: np.ndarray
    times_s: list[float]
    scenes: list[Scene]
    seconds: float

    @property
    def questions(self) -> list[Question]:
        """All that can be asked of it."""
        return questions(self.scenes)


class Bench:
    """The models and the drawn videos."""

    def __init__(self, work: Path, model: str, videos: int, processes: int) -> None:
        models = open_models(model)
        self.encoder = Encoder.load(models.instructblip)
        self.language = LanguageModel.load(models.instructblip)
        self.retrieval = None
        if models.retrieval is not None:
            self.retrieval = RetrievalModel.load(models.retrieval, instructblip=models.instructblip)
        self.work, self.videos, self.processes = work, videos, processes

    def clips(
        self, name: str, seconds: float, count: int, wanted: Callable[[int], bool] = bool
    ) -> list[Clip]:
        """``count`` videos whose number of scenes is ``wanted``, drawn unless they are there."""
        numbers = itertools.count()
        seeds: list[tuple[int, int]] = []
        while len(seeds) < count:
            seed = (_SEED + round(seconds), next(numbers))
            if wanted(len(plan_scenes(seconds, seed))):
                seeds.append(seed)
        self.work.mkdir(parents=True, exist_ok=True)
        paths = [self.work / f"{name}-{seconds:g}s-{number}.mp4" for _, number in seeds]
        with ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn")) as executor:
            list(executor.map(_draw, paths, [seconds] * count, seeds))
        return [self._decode(path, seconds) for path in paths]

    def _decode(self, path: Path, seconds: float) -> Clip:
        assert self.encoder.vision is not None
        span = decode_span(
            SpanRequest(str(path), 0.0, seconds, 1.0, self.encoder.vision.image_size, is_last=True)
        )
        assert span.problem is None, (path, span.problem)
        return Clip(np.stack(list(span.frames)), list(span.timestamps_s), read_truth(path), seconds)

    def online(
        self, clip: Clip, asked: Sequence[Question], settings: MemorySettings
    ) -> tuple[list[str], Memory]:
        """Answers while the frames go by, and the memory that is left."""
        outputs = []
        for part in _parts(asked):
            encoded = self.encoder.encode([clip.frames], [[q.prompt for q in part]], settings)[0]
            assert encoded.query_output is not None
            outputs.append(encoded.query_output)
        return self._texts(torch.cat(outputs), asked), _stored(encoded.memory)

    def replayed(self, memory: Memory, asked: Sequence[Question], settings: MemorySettings) -> list[str]:
        """Answers from stored memory."""
        outputs = [
            self.encoder.replay([memory], [[q.prompt for q in part]], settings)[0] for part in _parts(asked)
        ]
        return self._texts(torch.cat(outputs), asked)

    def _texts(self, outputs: Tensor, asked: Sequence[Question]) -> list[str]:
        texts: list[str] = []
        for begin in range(0, len(asked), 64):
            part = asked[begin : begin + 64]
            texts += self.language.generate(
                outputs[begin : begin + 64], [q.prompt for q in part], Decoding(_LONGEST_TEXT)
            )
        return texts

    def segments(self, clip: Clip, length_s: int, settings: MemorySettings) -> list[Memory]:
        """The stored memories of a video that is cut into segments."""
        memories = []
        for begin in range(0, len(clip.frames), length_s):
            frames = clip.frames[begin : begin + length_s]
            memories.append(
                _stored(self.encoder.encode([frames], [["Describe the video."]], settings)[0].memory)
            )
        return memories


class Score:
    """Right answers by kind of question."""

    def __init__(self) -> None:
        self.results: list[tuple[Question, bool]] = []

    def add(self, asked: Sequence[Question], said: Sequence[str]) -> None:
        """Count answers against the truth."""
        self.results += [(q, text == q.answer) for q, text in zip(asked, said, strict=True)]

    def share(self, wanted: Callable[[Question], bool]) -> float:
        """The share of right answers among the questions that are ``wanted``."""
        chosen = [right for question, right in self.results if wanted(question)]
        return sum(chosen) / len(chosen) if chosen else float("nan")

    def of_kind(self, kind: str) -> float:
        """The share over one kind of question."""
        return self.share(lambda q: q.kind == kind)

    @property
    def answers(self) -> float:
        """The share over all questions but descriptions."""
        return self.share(lambda q: q.kind != DESCRIBE)

    @property
    def descriptions(self) -> float:
        """The share over descriptions."""
        return self.of_kind(DESCRIBE)

    def early(self, scenes: int) -> float:
        """The share over questions about the first ``scenes`` scenes."""
        return self.share(lambda q: q.scene is not None and q.scene < scenes)


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
    rows = [["all questions", *(_percent(score.answers) for score in columns)]]
    for kind in KINDS:
        name = "whole description" if kind == DESCRIBE else kind
        rows.append([name, *(_percent(score.of_kind(kind)) for score in columns)])
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
            asked = _described_and(clip)
            score.add(asked, bench.online(clip, asked, settings)[0])
        rows.append([name, *map(_percent, (score.answers, score.early(2), score.descriptions))])
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
            asked = _sample(clip.questions, _BATCH)
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
                _percent(score.answers),
                _percent(score.of_kind("exists")),
                _percent(score.share(lambda q: q.kind in ("first", "last"))),
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
        asked = _sample(clip.questions, 48)
        one, _ = bench.online(clip, asked, settings)
        memory = bench.encoder.merge(bench.segments(clip, 100, settings), settings)
        other = bench.replayed(memory, asked, settings)
        whole.add(asked, one)
        parts.add(asked, other)
        same += sum(a == b for a, b in zip(one, other, strict=True))
        total += len(asked)
    rows = [
        ["one pass over 300 frames", _percent(whole.answers)],
        ["three segments of 100 s, merged and replayed", _percent(parts.answers)],
        ["the same answer", _percent(same / total)],
    ]
    table(f"5. Videos of 5 minutes, M = 20 ({total} questions)", ["", "questions"], rows)


def replays(bench: Bench) -> None:
    """Table 6: online answers against replayed ones."""
    rows = []
    for length in (10, 20):
        settings = MemorySettings(length)
        online, replayed, same, total = Score(), Score(), 0, 0
        for clip in bench.clips("several", 60, bench.videos, lambda scenes: 4 <= scenes <= 6):
            asked = _described_and(clip)
            said, memory = bench.online(clip, asked, settings)
            again = bench.replayed(memory, asked, settings)
            online.add(asked, said)
            replayed.add(asked, again)
            same += sum(a == b for a, b in zip(said, again, strict=True))
            total += len(said)
        rows.append(
            [
                f"{length}",
                *map(_percent, (online.answers, replayed.answers, same / total)),
                *map(_percent, (online.descriptions, replayed.descriptions)),
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
        _percent(statistics.mean(first)),
        _percent(statistics.mean(five)),
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


def _stored(memory: Memory) -> Memory:
    """A memory as an archive keeps it: half precision, and what sizes tell."""
    return Memory.stored(memory.tokens.half().float(), memory.sizes, memory.appended)


def _described_and(clip: Clip) -> list[Question]:
    """The description and a sample of the other questions."""
    asked = clip.questions
    return [*(q for q in asked if q.kind == DESCRIBE), *_sample(asked, _OTHERS)]


def _sample(asked: list[Question], count: int) -> list[Question]:
    """At most ``count`` questions, without the description, the same in every run."""
    others = [question for question in asked if question.kind != DESCRIBE]
    return random.Random(str([question.answer for question in others])).sample(
        others, min(count, len(others))
    )


def _parts(asked: Sequence[Question]) -> Iterable[Sequence[Question]]:
    return (asked[begin : begin + _BATCH] for begin in range(0, len(asked), _BATCH))


def _draw(path: Path, seconds: float, seed: tuple[int, int]) -> None:
    if not truth_path(path).exists():
        draw_video(path, seconds=seconds, seed=seed)


def _percent(share: float) -> str:
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK_DIR")
    parser.add_argument(
        "--model", default="demo", metavar="ID|DIR", help="a checkpoint (default: the one that ships)"
    )
    parser.add_argument("--tables", type=int, nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    bench = Bench(options.work, options.model, options.videos, options.processes)
    for number in options.tables:
        TABLES[number](bench)


if __name__ == "__main__":
    main()
