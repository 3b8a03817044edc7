"""Training examples of the language stages: scenes in some order, a question about them, and its answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from malmm.model.demo.questions import DESCRIBE, Question, questions
from malmm.model.demo.training.pool import ABSENT, IGNORED
from malmm.model.demo.world import COLOURS, MOTIONS, SHAPES, Object, Scene

__all__ = ["Answers", "Tokens", "ask", "attributes_of", "scene_of", "window_weights"]

_COLOURS, _SHAPES, _MOTIONS = list(COLOURS), list(SHAPES), list(MOTIONS)

# Learned last: what comes next is two steps away from what is asked about.
_OFTEN = {"before": 4, "after": 4, "count": 2}


def scene_of(attributes: Sequence[Sequence[int]], start_s: float, end_s: float) -> Scene:
    """A scene with objects of these attributes, for making questions (not pictures)."""
    objects = tuple(
        Object(_COLOURS[colour], _SHAPES[shape], _MOTIONS[motion], "small", 1, 0, 0, 0)
        for colour, shape, motion in attributes
        if colour < len(_COLOURS)
    )
    return Scene(start_s, end_s, objects, ((0, 0, 0), (0, 0, 0)), 0.0, 1.0, 0.0, 0.0)


def attributes_of(scene: Scene) -> list[tuple[int, int, int]]:
    """Colour, shape and motion of a scene's first and second object; ``ABSENT`` if there is no second."""
    known = [
        (_COLOURS.index(thing.colour), _SHAPES.index(thing.shape), _MOTIONS.index(thing.motion))
        for thing in scene.objects
    ]
    return [*known, ABSENT][:2]


def ask(scenes: Sequence[Scene], count: int, chance: random.Random) -> list[Question]:
    """``count`` questions in random order: one description, and the others by kind, hard ones more often."""
    by_kind: dict[str, list[Question]] = {}
    for question in questions(scenes, chance):
        by_kind.setdefault(question.kind, []).append(question)
    kinds = [kind for kind in by_kind if kind != DESCRIBE]
    often = [_OFTEN.get(kind, 1) for kind in kinds]
    asked = [chance.choice(by_kind[kind]) for kind in chance.choices(kinds, often, k=count - 1)]
    asked.append(by_kind[DESCRIBE][0])
    chance.shuffle(asked)
    return asked


def window_weights(begins: Sequence[int], total: int, windows: int) -> Tensor:
    """The share of each window of relative time that each scene fills [windows, scenes]. Rows sum to one.

    ``begins`` are the scenes' first frames, of ``total`` frames.
    """
    edges = torch.tensor([*begins, total], dtype=torch.float32) / total
    low = torch.arange(windows)[:, None] / windows
    inside = torch.minimum(edges[1:], low + 1 / windows) - torch.maximum(edges[:-1], low)
    return inside.clamp(min=0) * windows


@dataclass(frozen=True)
class Answers:
    """K questions to each of V films with their answers, one film's after another in one row.

    ``ids`` [V, L]; ``labels`` [V, L], ``IGNORED`` but for answers; ``question`` [V, L], which of the film's
    questions a token belongs to, -1 for padding; ``position`` [V, L] within its question.
    """

    ids: Tensor
    labels: Tensor
    question: Tensor
    position: Tensor


@dataclass(frozen=True)
class Tokens:
    """Encodes prompts and answers as the shipped tokenizers and code do."""

    qformer: PreTrainedTokenizerBase
    language: PreTrainedTokenizerBase

    def prompt_ids(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The Q-Former's ids and mask [B, L]."""
        rows = [list(self._of(self.qformer, prompt, True)) for prompt in prompts]
        return _padded(rows, 0), _padded([[1] * len(row) for row in rows], 0)

    def answers(self, asked: Sequence[Sequence[Question]]) -> Answers:
        """The language model's tokens of all questions to each film."""
        end = self.language.eos_token_id
        columns: tuple[list[list[int]], ...] = ([], [], [], [])
        for of_film in asked:
            rows: tuple[list[int], ...] = ([], [], [], [])
            for number, each in enumerate(of_film):
                prompt = self._of(self.language, each.prompt, True)
                answer = (*self._of(self.language, each.answer, False), end)
                rows[0].extend((*prompt, *answer))
                rows[1].extend(([IGNORED] * len(prompt)) + list(answer))
                rows[2].extend([number] * (len(prompt) + len(answer)))
                rows[3].extend(range(len(prompt) + len(answer)))
            for column, row in zip(columns, rows, strict=True):
                column.append(row)
        ids, labels, question, position = columns
        return Answers(_padded(ids, 0), _padded(labels, IGNORED), _padded(question, -1), _padded(position, 0))

    @staticmethod
    @lru_cache(maxsize=100_000)
    def _of(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])


def _padded(rows: list[list[int]], filler: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
