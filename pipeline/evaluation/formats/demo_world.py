"""The demo world: drawn videos with their truth beside them, as ``malmm demo-videos`` writes them."""

from __future__ import annotations

from pathlib import Path

from malmm.model.demo.questions import DESCRIBE, sampled
from malmm.model.demo.questions import Question as Drawn
from malmm.model.demo.questions import questions as all_questions
from malmm.model.demo.videos import read_truth
from malmm.pipeline.evaluation.formats.reading import Reading, Source, of_tasks
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.schema.errors import DataSetError

__all__ = ["read_demo_world"]

#: Questions a video beside its description.
_OTHERS = 15


def read_demo_world(source: Source) -> Reading:
    """The description of each drawn video and up to 15 other questions, the same in every run. Raises DataSetError."""
    truths = sorted(source.annotations.glob("*.mp4.json"))
    if not truths:
        raise DataSetError(
            f"{source.annotations} has no *.mp4.json: --annotations is a folder that `malmm demo-videos` wrote",
            path=str(source.annotations),
        )
    questions = []
    for truth in truths:
        video = Path(str(truth).removesuffix(".json"))
        try:
            drawn = all_questions(read_truth(video))
        except (OSError, ValueError) as error:
            raise DataSetError(str(error), path=str(truth)) from error
        clip = Clip(video.name, count=source.frames)
        questions += [
            Question(
                f"{video.stem}/{number}",
                clip,
                source.template.format(each.prompt),
                (each.answer,),
                task=each.kind,
            )
            for number, each in enumerate(_sample(drawn))
        ]
    return Reading(of_tasks(questions, source), tuple(truths))


def _sample(drawn: list[Drawn]) -> list[Drawn]:
    return [*(each for each in drawn if each.kind == DESCRIBE), *sampled(drawn, _OTHERS)]
