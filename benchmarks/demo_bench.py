"""A trained demo model with its drawn videos, and the scoring of its answers against their truth."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from malmm.model.checkpoints.resolve import open_models
from malmm.model.decoding import Decoding
from malmm.model.demo.questions import DESCRIBE, Question, questions, sampled
from malmm.model.demo.videos import draw_video, read_truth, truth_path
from malmm.model.demo.world import Scene, plan_scenes
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import Memory
from malmm.model.towers.blip2 import RetrievalModel
from malmm.operators.media.reader import SpanRequest, decode_span

__all__ = ["QUESTIONS_A_PASS", "Bench", "Clip", "Score", "chosen", "described_and"]

#: Prompts that share a pass.
QUESTIONS_A_PASS = 16
_SEED = 90_000
_LONGEST_TEXT = 160

Part = TypeVar("Part", int, str)


@dataclass(frozen=True)
class Clip:
    """A decoded video: uint8 [T, side, side, 3] at one frame a second, its times, its truth and its length."""

    frames: np.ndarray
    times_s: list[float]
    scenes: list[Scene]
    seconds: float

    @property
    def questions(self) -> list[Question]:
        """All questions about it."""
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
        """``count`` videos with a ``wanted`` number of scenes. Draws those that do not exist yet."""
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
        """Answers of the online pass, and the memory at its end."""
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
        """The stored memories of a video cut into segments."""
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


def _stored(memory: Memory) -> Memory:
    """A memory as an archive stores it: in half precision, with sizes but without first frames."""
    return Memory.stored(memory.tokens.half().float(), memory.sizes, memory.appended)


def described_and(clip: Clip) -> list[Question]:
    """The description and a sample of the other questions."""
    asked = clip.questions
    return [*(q for q in asked if q.kind == DESCRIBE), *sampled(asked, QUESTIONS_A_PASS - 1)]


def _parts(asked: Sequence[Question]) -> Iterable[Sequence[Question]]:
    return (asked[begin : begin + QUESTIONS_A_PASS] for begin in range(0, len(asked), QUESTIONS_A_PASS))


def _draw(path: Path, seconds: float, seed: tuple[int, int]) -> None:
    if not truth_path(path).exists():
        draw_video(path, seconds=seconds, seed=seed)


def chosen(description: str | None, option: str, parts: Mapping[Part, object]) -> tuple[Bench, list[Part]]:
    """Read the command line of a program that measures ``parts``: the bench, and those that ``option`` names."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK_DIR")
    parser.add_argument(
        "--model", default="demo", metavar="ID|DIR", help="a checkpoint (default: the one that ships)"
    )
    every = list(parts)
    parser.add_argument(option, dest="parts", type=type(every[0]), nargs="+", default=every, choices=every)
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    return Bench(options.work, options.model, options.videos, options.processes), options.parts
