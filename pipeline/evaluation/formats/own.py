"""One's own questions: a CSV or JSONL file with a row a question.

Columns: ``video`` and ``question``; ``answer``, or for captions ``answers``, separated by `` || `` (in JSONL a list);
``choices`` in the same way; ``start_s`` and ``end_s``; ``task``; ``id``; ``split``. Other columns are left alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

from malmm.pipeline.evaluation.formats.annotation_file import AnnotationFile, Entry
from malmm.pipeline.evaluation.formats.reading import Reading, Source, of_tasks, with_choices
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.schema.errors import DataSetError

__all__ = ["read_own"]

_FORM = "a table of questions (CSV or JSONL with video, question, answer, and where wanted choices, start_s, end_s)"
_BETWEEN = "||"


def read_own(source: Source) -> Reading:
    """The questions of a table. Rows of another ``split`` are left out. Raises DataSetError."""
    path = source.annotations
    if not path.is_file():
        raise DataSetError(f"{path} is not a file: --annotations is {_FORM}", path=str(path))
    file = AnnotationFile(path, _FORM)
    questions: list[Question] = []
    training: set[tuple[str, str]] = set()
    for number, row in enumerate(_rows(file)):
        entry = Entry(file, f"row {number + 1}", row)
        split = str(row.get("split") or source.split)
        if split != source.split:
            if split == "train":
                training.add(("", entry.get("video", str)))
            continue
        questions.append(_question(entry, number, source))
    if not questions:
        raise file.wrong(f"it has no question of the split {source.split!r}")
    names = [question.question_id for question in questions]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise file.wrong(f"the id {twice!r} occurs twice")
    return Reading(of_tasks(questions, source), (path,), frozenset(training))


def _question(entry: Entry, number: int, source: Source) -> Question:
    row = entry.values
    answers = _several(row.get("answers") or row.get("answer"))
    if not answers:
        raise entry.wrong("it has no answer")
    choices = _several(row.get("choices"))
    asked = entry.get("question", str)
    prompt, offered = source.template.format(asked), choices
    if choices:
        if answers[0] not in choices:
            raise entry.wrong(f"its choices lack the answer {answers[0]!r}")
        if len(set(choices)) != len(choices):
            raise entry.wrong("two of its choices are the same")
        prompt, offered, right = with_choices(asked, choices, choices.index(answers[0]), source)
        answers = (right,)
    start_s, end_s = _seconds(entry, "start_s", 0.0), _seconds(entry, "end_s", math.inf)
    if not 0 <= start_s < end_s:
        raise entry.wrong(f"its span is from {start_s:g} s to {end_s:g} s")
    clip = Clip(entry.get("video", str), count=source.frames, start_s=start_s, end_s=end_s)
    return Question(
        str(row.get("id") or number + 1), clip, prompt, answers, offered, str(row.get("task") or "")
    )


def _rows(file: AnnotationFile) -> list[dict[str, Any]]:
    try:
        text = file.path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise file.wrong(f"it cannot be read as text ({error})") from error
    if _is_csv(file.path):
        try:
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise file.wrong(f"it cannot be read as a CSV file ({error})") from error
        lacking = {"video", "question"} - set(rows[0] if rows else ())
        if lacking:
            raise file.wrong(f"it has no column {min(lacking)!r}")
        return [dict(row) for row in rows]
    found = []
    for number, line in enumerate(text.splitlines()):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise file.wrong(f"line {number + 1} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise file.wrong(f"line {number + 1} is not an object")
        found.append(row)
    return found


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() not in (".jsonl", ".json", ".ndjson")


def _several(value: Any) -> tuple[str, ...]:
    """The values of a cell; a list stays as it is."""
    if value is None or value == "":
        return ()
    values = value if isinstance(value, list) else str(value).split(_BETWEEN)
    return tuple(str(each).strip() for each in values)


def _seconds(entry: Entry, key: str, default: float) -> float:
    value = entry.values.get(key)
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise entry.wrong(f"{key} is {value!r}, not a number of seconds") from error
