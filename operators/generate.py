"""Generate: query outputs to text, with the language model alone. One row in, one row out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.instructblip.language import LanguageModel
from malmm.operators.device import choose_device
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.rows import ANSWERED, array_at, carried, rows_table

__all__ = ["GenerateTexts"]


class GenerateTexts:
    """An actor that holds the language model. ``ENCODED`` or ``REPLAYED`` to the same rows with texts.

    Captions and answers of all rows and prompts of a batch are generated together; a classification's text
    is its likeliest label and its score that label's probability. ``on_words``, if set, hears the words of a text that
    is generated alone as they come.
    """

    def __init__(
        self, *, model: str, prompts: tuple[Prompt, ...], max_new_tokens: int, device: str | None = None
    ) -> None:
        checkpoint = open_models(model, NO_RETRIEVAL).instructblip
        self.language = LanguageModel.load(checkpoint, device=choose_device(device))
        self.prompts = prompts
        self.max_new_tokens = max_new_tokens
        self.on_words: Callable[[str], None] | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Answer a batch; rows whose texts cannot be made fail by themselves."""
        held = carried(rows)
        wanted = [
            (index, place, prompt)
            for index, row in enumerate(held)
            if row.failure is None
            for place, prompt in enumerate(rows["prompts"][index].as_py())
        ]
        outputs = {
            index: torch.from_numpy(array_at(rows, "query_output", index, np.float32).copy())
            for index in {index for index, _, _ in wanted}
        }
        texts: dict[int, list[str]] = {index: [""] * len(outputs[index]) for index in outputs}
        scores: dict[int, list[float | None]] = {index: [None] * len(outputs[index]) for index in outputs}
        labelled: dict[int, list[list[float] | None]] = {i: [None] * len(out) for i, out in outputs.items()}
        failed: dict[int, Exception] = {}
        open_ended = [item for item in wanted if not self.prompts[item[2]].labels]
        for (index, place, _), text in zip(
            open_ended, self._attempt(open_ended, outputs, failed), strict=True
        ):
            texts[index][place] = text
        for index, place, prompt in wanted:
            chosen = self.prompts[prompt]
            if not chosen.labels or index in failed:
                continue
            try:
                result = self.language.classify(outputs[index][place][None], [chosen.text], chosen.labels)[0]
            except (RuntimeError, ValueError) as error:
                failed[index] = error
                continue
            texts[index][place], scores[index][place] = result.best
            labelled[index][place] = list(result.probabilities)
        results: list[dict[str, Any]] = []
        for index, row in enumerate(held):
            if index in failed:
                reason = " ".join(str(failed[index]).split())[:500]
                results.append(row.failed("generate", type(failed[index]).__name__, reason).columns())
            elif index in texts:
                results.append(
                    row.columns()
                    | {"texts": texts[index], "scores": scores[index], "label_scores": labelled[index]}
                )
            else:
                results.append(row.columns())
        return self._joined(rows, results)

    def _attempt(
        self,
        items: list[tuple[int, int, int]],
        outputs: dict[int, torch.Tensor],
        failed: dict[int, Exception],
    ) -> list[str]:
        """Texts of the items, together or, when that fails, one by one."""
        if not items:
            return []
        try:
            return self.language.generate(
                torch.stack([outputs[index][place] for index, place, _ in items]),
                [self.prompts[prompt].text for _, _, prompt in items],
                Decoding(self.max_new_tokens),
                on_words=self.on_words if len(items) == 1 else None,
            )
        except (RuntimeError, ValueError) as error:
            if len(items) == 1:
                failed[items[0][0]] = error
                return [""]
            return [text for item in items for text in self._attempt([item], outputs, failed)]

    def _joined(self, rows: pa.Table, results: list[dict[str, Any]]) -> pa.Table:
        """The stage's columns, with what the rows brought along."""
        made = ("video", "segment", "failure", "texts", "scores", "label_scores")
        fresh = rows_table(results, pa.schema([field for field in ANSWERED if field.name in made]))
        for name in rows.column_names:
            if name not in made and name in ANSWERED.names:
                fresh = fresh.append_column(ANSWERED.field(name), rows[name])
        order = [field.name for field in ANSWERED if field.name in fresh.column_names]
        return fresh.select(order)
