"""The stages of an evaluation in this process, one after the other: the operators without Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from malmm.model.decoding import Decoding
from malmm.operators.answer_questions import AnswerQuestions
from malmm.operators.guard import guarded, guarded_actor
from malmm.operators.pick_frames import pick_frames
from malmm.pipeline.evaluation.graph import Stages, answerer_options, picker_options
from malmm.pipeline.schema.rows import PICKED, TOLD

_pick: Any = guarded("pick", PICKED, pick_frames)
_Answer = guarded_actor("answer", TOLD, AnswerQuestions)


class InlineEvaluation:
    """Stands in for ``malmm.pipeline.evaluation.graph.asking``. ``asked`` counts the clips that were asked about.

    With ``lose`` no answer comes back, as when workers are killed again and again.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.interrupt_after: int | None = None
        self.lose = False
        self._actors: dict[str, Any] = {}

    def __call__(self, clips: Sequence[pa.Table], stages: Stages) -> Iterator[pa.Table | str]:
        answer = self._answerer(answerer_options(stages.config))
        for number, clip in enumerate(clips):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            self.asked += 1
            [picked] = _pick(clip, **picker_options(stages))
            yield ""
            if not self.lose:
                yield answer(picked)

    def _answerer(self, options: dict[str, Any]) -> Any:
        """A worker with these options; those with the same model share it, which takes long to load."""
        model = options["model"]
        if model not in self._actors:
            self._actors[model] = _Answer(**options, device="cpu")
        inner = self._actors[model].inner
        inner.ways, inner.writes_choices = options["ways"], options["writes_choices"]
        inner.decoding = Decoding(**options["decoding"])
        return self._actors[model]
