"""Input and output of the readers of annotations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from malmm.pipeline.evaluation.questions import Question
from malmm.pipeline.schema.errors import DataSetError

__all__ = ["CHOOSING", "Reading", "Source", "of_tasks", "with_choices"]

#: How an answer is chosen: by the probability of each answer's text, by that of its letter, or by a written letter.
CHOOSING = ("text", "letter", "written")


@dataclass(frozen=True)
class Source:
    """What to read: annotations, which split, which tasks (empty: all), and how many frames each clip has.

    ``template`` is the text around a question, with ``{}`` in its place. ``choosing`` is one of ``CHOOSING``.
    """

    annotations: Path
    split: str
    frames: int
    tasks: tuple[str, ...] = ()
    template: str = "{}"
    choosing: str = "text"


@dataclass(frozen=True)
class Reading:
    """The questions read, the files that they were read from, and the videos of the training split by task.

    ``notes`` are sentences for the report.
    """

    questions: tuple[Question, ...]
    files: tuple[Path, ...]
    training: frozenset[tuple[str, str]] = frozenset()
    notes: tuple[str, ...] = field(default=())


def of_tasks(questions: Iterable[Question], source: Source) -> tuple[Question, ...]:
    """The questions of the wanted tasks. Raises DataSetError, which lists the existing tasks, if none is left."""
    found = tuple(questions)
    chosen = tuple(each for each in found if not source.tasks or each.task in source.tasks)
    if found and not chosen:
        known = ", ".join(sorted({each.task for each in found} - {""})) or "none"
        raise DataSetError(
            f"no question of {source.annotations} has the task {source.tasks[0]!r}: there are {known}",
            path=str(source.annotations),
        )
    return chosen


def with_choices(
    question: str, choices: tuple[str, ...], right: int, source: Source
) -> tuple[str, tuple[str, ...], str]:
    """The prompt of a question with choices, the options of the model, which are the texts or their letters, and the
    right one, which is that of the choice number ``right``. Of choices with one text, the text is one option.
    """
    if source.choosing == "text":
        return source.template.format(question), tuple(dict.fromkeys(choices)), choices[right]
    letters = tuple(chr(ord("A") + place) for place in range(len(choices)))
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    said = f"Question: {question}\nOptions:\n{listed}\nAnswer with the letter of the best option only."
    return source.template.format(said), letters, letters[right]
