"""Generate: query outputs to text, with the language model alone. One row in, one row out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import torch

from malmm.model.batch_limit import Mishap
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of
from malmm.model.generation.engine import Choice, Engine, Request
from malmm.model.generation.transformers_engine import TransformersEngine
from malmm.model.generation.vllm_engine import EmbedsPrompts, VllmEngine
from malmm.model.generation.vllm_server import VllmServer, served_name
from malmm.operators.device import choose_device
from malmm.operators.metering import IdleMeter, told_to_ray
from malmm.operators.typed_answers import finished, grammar_for
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.engines import OWN_ENGINE, server_of
from malmm.pipeline.schema.rows import ANSWERED, Carried, array_at, carried, rows_table
from malmm.pipeline.schema.stored_tokens import tokens_at

__all__ = ["GenerateTexts"]


class GenerateTexts:
    """An actor that holds the language model. ``ENCODED`` or ``REPLAYED`` to the same rows with texts.

    Captions and answers of all rows and prompts of a batch go to an engine, which decides what is generated together. A
    classification's text is its most likely label, and its score that label's probability. ``on_words``, if set, is
    called with the words of a single text as they are generated.
    """

    def __init__(
        self,
        *,
        model: str,
        prompts: tuple[Prompt, ...],
        max_new_tokens: int,
        decoding: str = "",
        device: str | None = None,
        engine: str = OWN_ENGINE,
    ) -> None:
        """``decoding`` is the recipe's: settings of generation, empty for greedy. ``engine`` is as ``--engine``."""
        checkpoint = open_models(model, NO_RETRIEVAL).checkpoint
        chosen = choose_device(device)
        self.language = family_of(checkpoint).load_language(checkpoint, device=chosen)
        self.prompts = prompts
        settings = TextSettings.from_text(decoding)
        self.decoding, self.system = _decoding(settings, max_new_tokens), settings.system or None
        self.on_words: Callable[[str], None] | None = None
        self.engine: Engine = TransformersEngine(self.language, chosen)
        server = server_of(engine)
        if server:
            # A server that is away fails texts, which are tried again, and not the worker.
            self.engine = VllmEngine(
                cast(EmbedsPrompts, self.language), chosen, VllmServer(server, served_name(checkpoint))
            )
        self._meter = IdleMeter(told_to_ray("generate"))

    @property
    def device_lost(self) -> bool:
        """Whether the GPU stopped answering, so that nothing more can be done in this process."""
        return self.engine.device_lost

    def for_prompts(self, prompts: tuple[Prompt, ...], on_words: Callable[[str], None] | None = None) -> Self:
        """A copy of this operator for other prompts, which shares the language model."""
        other = copy.copy(self)
        other.prompts, other.on_words = prompts, on_words
        return other

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Answer a batch. A row whose texts cannot be made fails alone."""
        return self._meter.measured(self._answered, rows)

    def _answered(self, rows: pa.Table) -> pa.Table:
        held = carried(rows)
        wanted = [
            (index, place, self.prompts[prompt])
            for index, row in enumerate(held)
            if row.failure is None
            for place, prompt in enumerate(rows["prompts"][index].as_py())
        ]
        asked = {
            index: _asked(
                rows,
                index,
                [self.prompts[prompt].text for prompt in rows["prompts"][index].as_py()],
                self.system,
            )
            for index in dict.fromkeys(index for index, _, _ in wanted)
        }
        texts: dict[int, list[str]] = {index: [""] * len(asked[index]) for index in asked}
        scores: dict[int, list[float | None]] = {index: [None] * len(asked[index]) for index in asked}
        labelled: dict[int, list[list[float] | None]] = {i: [None] * len(of) for i, of in asked.items()}
        failed: dict[int, Mishap] = {}
        open_ended = [item for item in wanted if not (item[2].labels or item[2].schema)]
        requests = [Request(asked[index][place], self.decoding) for index, place, _ in open_ended]
        for (index, place, _), drawn in zip(
            open_ended, self.engine.texts(requests, on_words=self.on_words), strict=True
        ):
            if isinstance(drawn, Mishap):
                failed[index] = drawn
            else:
                texts[index][place] = drawn[0]
        failed |= self._typed(rows, held, [item for item in wanted if item[2].schema], asked, texts)
        labels = [item for item in wanted if item[2].labels and item[0] not in failed]
        choices = [Choice(asked[index][place], prompt.labels) for index, place, prompt in labels]
        for (index, place, _), result in zip(labels, self.engine.scores(choices), strict=True):
            if isinstance(result, Mishap):
                failed[index] = result
                continue
            texts[index][place], scores[index][place] = result.best
            labelled[index][place] = list(result.probabilities)
        results: list[dict[str, Any]] = []
        for index, row in enumerate(held):
            if index in failed:
                results.append(row.failed("generate", *astuple(failed[index])).columns())
            elif index in texts:
                results.append(
                    row.columns()
                    | {"texts": texts[index], "scores": scores[index], "label_scores": labelled[index]}
                )
            else:
                results.append(row.columns())
        return self._joined(rows, results)

    def _typed(
        self,
        rows: pa.Table,
        held: Sequence[Carried],
        wanted: Sequence[tuple[int, int, Prompt]],
        asked: dict[int, list[Asked]],
        texts: dict[int, list[str]],
    ) -> dict[int, Mishap]:
        """Write answers that follow a schema into ``texts``."""
        slots = {index: rows["slots"][index].as_py() for index, _, _ in wanted}
        requests = [
            Request(asked[index][place], self.decoding.under(grammar_for(prompt, held[index], slots[index])))
            for index, place, prompt in wanted
        ]
        failed: dict[int, Mishap] = {}
        for (index, place, prompt), drawn in zip(wanted, self.engine.texts(requests), strict=True):
            if isinstance(drawn, Mishap):
                failed[index] = drawn
                continue
            try:
                texts[index][place] = finished(drawn[0], prompt, slots[index])
            except ValueError as error:
                failed[index] = Mishap(type(error).__name__, " ".join(str(error).split()), "")
        return failed

    def _joined(self, rows: pa.Table, results: list[dict[str, Any]]) -> pa.Table:
        """The stage's columns, with what the rows brought along."""
        made = ["video", "segment", "failure", "texts", "scores", "label_scores"]
        left = (
            set()
            if "sizes" in rows.column_names
            else {"slots", "tokens", "tokens_shape", "token_scales", "token_scales_shape"}
        )
        fresh = rows_table(results, pa.schema([field for field in ANSWERED if field.name in made]))
        for name in rows.column_names:
            # Drop replayed slots: they are in the archive already.
            if name not in made and name not in left and name in ANSWERED.names:
                fresh = fresh.append_column(ANSWERED.field(name), rows[name])
        order = [field.name for field in ANSWERED if field.name in fresh.column_names]
        return fresh.select(order)


def _decoding(settings: TextSettings, max_new_tokens: int) -> Decoding:
    return Decoding(
        max_new_tokens,
        settings.beams,
        settings.begin_token,
        settings.repetition_penalty,
        settings.length_penalty,
        # A question may be answered in fewer tokens than the archive's texts have at least.
        min_new_tokens=min(settings.min_new_tokens, max_new_tokens),
    )


def _asked(rows: pa.Table, index: int, prompts: list[str], system: str | None) -> list[Asked]:
    """A row's questions: each with its query output, or all on the row's slots."""
    if rows["query_output"][index].is_valid:
        outputs_KQD = torch.from_numpy(array_at(rows, "query_output", index, np.float32).copy())
        pairs = zip(prompts, outputs_KQD, strict=True)
        return [Asked(prompt, query_output=output) for prompt, output in pairs]
    tokens = torch.from_numpy(tokens_at(rows, index).copy())
    spans = rows["slots"][index].as_py()
    end_s = max(span["end_s"] for span in spans)
    slots = Slots(tokens, tuple(span["timestamp_s"] for span in spans), end_s)
    return [Asked(prompt, slots=slots, system=system) for prompt in prompts]
