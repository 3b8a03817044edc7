"""Answer: the questions about a clip, from one memory of it. One row in, one row out.

Each ``Way`` of watching chooses from the same frames and is asked the same questions with the same language model, so
that their answers can be compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Encoded, Slots
from malmm.model.families.registry import family_of
from malmm.model.generation.engine import Choice, Engine, Request
from malmm.model.generation.transformers_engine import TransformersEngine
from malmm.model.memory.settings import MemorySettings
from malmm.operators.device import choose_device
from malmm.pipeline.schema.rows import PICKED, TOLD, array_at, carried, rows_table
from malmm.pipeline.schema.ways_of_watching import Way

__all__ = ["AnswerQuestions"]

_Result = TypeVar("_Result")

# A data set's answers may be of few tokens; the caption of a piece may have so many.
_NOTE_TOKENS = 60


@dataclass
class _Watched:
    """What the language model is given, and what it cost to make. ``notes`` stand before each prompt."""

    outputs: list[torch.Tensor] | None
    slots: Slots | None
    stored_bytes: int
    visual_tokens: int
    language_tokens: int
    notes: str = ""


class AnswerQuestions:
    """An actor with both parts of a model: ``PICKED`` to ``TOLD``.

    ``decoding`` are arguments of ``malmm.model.decoding.Decoding``, with which open answers are written. Questions with
    choices are answered by the probability of the choices, or as open ones if ``writes_choices``.
    """

    def __init__(
        self,
        *,
        model: str,
        ways: tuple[Way, ...],
        decoding: Mapping[str, Any],
        writes_choices: bool = False,
        device: str | None = None,
    ) -> None:
        checkpoint = open_models(model, NO_RETRIEVAL).checkpoint
        family = family_of(checkpoint)
        chosen = choose_device(device)
        self.reads_slots, self.frames_per_step = family.reads_slots, family.frames_per_step
        self.encoder = family.load_encoder(checkpoint, device=chosen)
        self.language: Any = family.load_language(checkpoint, device=chosen)
        self.ways, self.decoding, self.writes_choices = ways, Decoding(**decoding), writes_choices
        self.batches = BatchLimit(chosen)
        self.engine: Engine = TransformersEngine(self.language, chosen)

    @property
    def device_lost(self) -> bool:
        """Whether the GPU stopped answering, so that nothing more can be done in this process."""
        return self.batches.device_lost or self.engine.device_lost

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Answer all questions of each clip. A clip whose questions cannot all be answered fails alone."""
        rows = rows.select(PICKED.names)
        results: list[dict[str, Any]] = []
        for index, row in enumerate(carried(rows)):
            if row.failure is not None:
                results.append(row.columns())
                continue
            frames = array_at(rows, "frames", index, np.uint8)
            clip = _Clip(frames, rows["timestamps_s"][index].as_py(), rows["end_s"][index].as_py())
            prompts, choices = rows["prompts"][index].as_py(), rows["choices"][index].as_py()
            try:
                told = [self._told(way, clip, prompts, choices) for way in self.ways]
            except _Failed as failed:
                results.append(row.failed("answer", *astuple(failed.mishap)).columns())
            else:
                results.append(row.columns() | {"ways": told})
        return rows_table(results, TOLD)

    def _told(self, way: Way, clip: _Clip, prompts: list[str], choices: list[list[str]]) -> dict[str, Any]:
        began = time.perf_counter()
        watched = self._watched(way, clip, prompts)
        encoded = time.perf_counter()
        said = [watched.notes + prompt for prompt in prompts]
        if watched.outputs is not None:
            asked = [Asked(*pair) for pair in zip(said, watched.outputs, strict=True)]
        else:
            asked = [Asked(prompt, slots=watched.slots) for prompt in said]
        texts = self._texts(asked, choices)
        return {
            "way": way.watching,
            "texts": texts,
            "encode_s": encoded - began,
            "answer_s": time.perf_counter() - encoded,
            "stored_bytes": watched.stored_bytes,
            "visual_tokens": watched.visual_tokens,
            "language_tokens": watched.language_tokens,
        }

    def _all(self, work: Callable[[Sequence[int]], list[Any]], count: int) -> list[Any]:
        """Results of ``work`` for 0 to ``count`` - 1, in batches that fit. Raises _Failed if one of them fails."""
        return _all_there(self.batches.results(list(range(count)), work))

    def _texts(self, asked: Sequence[Asked], choices: Sequence[list[str]]) -> list[list[str]]:
        texts: list[list[str]] = [[] for _ in asked]
        scored = [] if self.writes_choices else [place for place, offered in enumerate(choices) if offered]
        found = self.engine.scores([Choice(asked[place], tuple(choices[place])) for place in scored])
        for place, scores in zip(scored, _all_there(found), strict=True):
            order = np.argsort(-np.array(scores.probabilities), kind="stable")
            texts[place] = [choices[place][each] for each in order]
        left = [place for place in range(len(asked)) if place not in set(scored)]
        drawn = self.engine.texts([Request(asked[place], self.decoding) for place in left])
        for place, of_question in zip(left, _all_there(drawn), strict=True):
            texts[place] = of_question
        return texts

    def _watched(self, way: Way, clip: _Clip, prompts: list[str]) -> _Watched:
        if not way.reads_notes:
            return self._seen(clip.part(way), prompts, way)
        pieces = clip.pieces(way.pieces)
        seen = [self._seen(piece, [way.describe], way) for piece in pieces]
        said = [Asked(way.describe, each.outputs[0] if each.outputs else None, each.slots) for each in seen]
        texts = self._described(said)
        captions = " ".join(
            f"From {piece.start_s:.0f} s to {piece.end_s:.0f} s: {text}."
            for piece, text in zip(pieces, texts, strict=True)
        )
        stored, budget = len(captions.encode()), self._budget(clip, seen[0], way)
        if way.watching == "captions":
            notes, tokens = self._cut(captions, budget)
            return replace(
                _nothing(seen[0], len(prompts)), notes=notes, stored_bytes=stored, language_tokens=tokens
            )
        if self.reads_slots:
            half = replace(way, length=max(1, way.length // 2))
            bank = self._seen(clip, prompts, half)
            budget -= bank.language_tokens
        else:
            bank = self._seen(clip, prompts, way)
        notes, tokens = self._cut(captions, budget)
        return replace(
            bank,
            notes=notes,
            stored_bytes=bank.stored_bytes + stored,
            language_tokens=bank.language_tokens + tokens,
        )

    def _described(self, said: Sequence[Asked]) -> list[str]:
        longest = max(_NOTE_TOKENS, self.decoding.max_new_tokens)
        decoding = replace(self.decoding, returned=1, max_new_tokens=longest)
        return [texts[0] for texts in _all_there(self.engine.texts([Request(one, decoding) for one in said]))]

    def _budget(self, clip: _Clip, piece: _Watched, way: Way) -> int:
        """How many tokens the bank over the whole clip takes in the language model, from those over a piece."""
        if piece.slots is None:
            return piece.language_tokens
        slots = min(way.length, -(-len(clip.frames) // self.frames_per_step))
        return slots * (piece.visual_tokens // len(piece.slots.times_s))

    def _seen(self, clip: _Clip, prompts: list[str], way: Way) -> _Watched:
        length = len(clip.frames) if way.watching == "all" else way.length
        settings = MemorySettings(length, way.policy)
        memory = None

        def encode(places: Sequence[int]) -> list[Encoded]:
            asked = [prompts[place] for place in places]
            [encoded] = self.encoder.encode([clip.frames], [asked], settings)
            if encoded.query_output is None:
                return [encoded] * len(places)
            return [Encoded(encoded.memory, output) for output in encoded.query_output]

        # Families that read slots encode once, whatever is asked.
        found = self._all(encode, 1 if self.reads_slots else len(prompts))
        memory = found[0].memory
        tokens = memory.tokens.to(torch.float16)
        visual = int(np.prod(tokens.shape[:2]))
        stored = tokens.numel() * tokens.element_size() + memory.sizes.numel() * 4
        if self.reads_slots:
            slots = Slots.of(memory, clip.times_s, clip.end_s, self.frames_per_step)
            return _Watched(None, slots, stored, visual, visual)
        outputs = [each.query_output for each in found]
        return _Watched(outputs, None, stored, visual, int(outputs[0].shape[0]))

    def _cut(self, notes: str, most: int) -> tuple[str, int]:
        """Notes for before a prompt, of at most so many tokens, and their number."""
        tokenizer = self.language.tokenizer
        ids = tokenizer(notes, add_special_tokens=False)["input_ids"][:most]
        return tokenizer.decode(ids, skip_special_tokens=True).strip() + "\n", len(ids)


class _Failed(Exception):  # noqa: N818 - it carries the mishap
    def __init__(self, mishap: Mishap) -> None:
        super().__init__(mishap.message)
        self.mishap = mishap


def _all_there(found: Sequence[_Result | Mishap]) -> list[_Result]:
    """The results. Raises _Failed if one of them is missing."""
    results: list[_Result] = []
    for each in found:
        if isinstance(each, Mishap):
            raise _Failed(each)
        results.append(each)
    return results


@dataclass(frozen=True, eq=False)
class _Clip:
    """Frames uint8 [T, side, side, 3], their times, and the end of the clip."""

    frames: np.ndarray
    times_s: list[float]
    end_s: float

    @property
    def start_s(self) -> float:
        return self.times_s[0]

    def part(self, way: Way) -> _Clip:
        """The frames that a way watches."""
        count = min(way.length, len(self.frames))
        if way.watching == "uniform":
            places = np.rint(np.linspace(0, len(self.frames) - 1, count)).astype(int)
            return _Clip(self.frames[places], [self.times_s[place] for place in places], self.end_s)
        if way.watching == "last":
            return _Clip(self.frames[-count:], self.times_s[-count:], self.end_s)
        return self

    def pieces(self, count: int) -> list[_Clip]:
        """The clip cut into at most ``count`` pieces of nearly as many frames each."""
        parts = np.array_split(np.arange(len(self.frames)), min(count, len(self.frames)))
        begins = [self.times_s[part[0]] for part in parts]
        ends = [*begins[1:], self.end_s]
        return [
            _Clip(self.frames[part], [self.times_s[place] for place in part], end_s)
            for part, end_s in zip(parts, ends, strict=True)
        ]


def _nothing(piece: _Watched, prompts: int) -> _Watched:
    """What is watched where no frame is: for so many prompts, without queries or slots."""
    if piece.outputs is not None:
        return _Watched([piece.outputs[0][:0]] * prompts, None, 0, 0, 0)
    if piece.slots is None:
        raise ValueError("a memory has query outputs or slots")
    return _Watched(None, Slots(piece.slots.tokens[:0], (), piece.slots.end_s), 0, 0, 0)
