"""MSRVTT-QA, MSVD-QA and ActivityNet-QA as MA-LMM's authors publish them: ``qa_test.json``, ``qa_val.json``.

An object by question: ``video``, ``question``, ``answer``, ``question_id`` and ``frame_length``, at 10 frames a second.
Source: boheumd/MA-LMM, ``lavis/datasets/datasets/*_vqa_datasets.py`` and ``lavis/tasks/vqa.py``.
"""

from __future__ import annotations

from malmm.pipeline.evaluation.formats.annotation_file import AnnotationFile
from malmm.pipeline.evaluation.formats.reading import Reading, Source, of_tasks
from malmm.pipeline.evaluation.formats.text import as_question
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.evaluation.sampling import evenly

__all__ = ["read_open_questions"]

_FORM = "question annotations of MA-LMM's authors (an object by question with video, question, answer, frame_length)"
_ANSWERS = "the authors' list of answers (an object from answer to number)"


def read_open_questions(source: Source) -> Reading:
    """The questions of one split. Raises DataSetError."""
    file = AnnotationFile.find(source.annotations, f"qa_{source.split}.json", _FORM)
    questions = []
    for entry in file.named():
        frames = entry.get("frame_length", int)
        if frames < 1:
            raise entry.wrong(f"a video of {frames} frames")
        questions.append(
            Question(
                entry.get("question_id", str),
                Clip(entry.get("video", str), evenly(0, frames - 1, source.frames)),
                source.template.format(as_question(entry.get("question", str))),
                (entry.get("answer", str),),
                task=str(entry.values.get("answer_type", "")),
            )
        )
    if not questions:
        raise file.wrong("it has no question")
    files, notes = [file.path], []
    listed = source.annotations / "qa_ans2label.json"
    if listed.is_file():
        known = AnnotationFile(listed, _ANSWERS)
        answers = known.read()
        if not isinstance(answers, dict) or not answers:
            raise known.wrong("it is not an object")
        missing = [question for question in questions if question.answers[0] not in answers]
        files.append(listed)
        if missing:
            # The published lists hold the answers of training alone, so this is no fault of the files.
            notes.append(
                f"{len(missing)} of {len(questions)} answers are not in {listed.name}, such as "
                f"{missing[0].answers[0]!r}: they do not occur in training."
            )
    return Reading(of_tasks(questions, source), tuple(files), _training(source), tuple(notes))


def _training(source: Source) -> frozenset[tuple[str, str]]:
    path = source.annotations / "qa_train.json"
    if source.split == "train" or not path.is_file():
        return frozenset()
    return frozenset(("", entry.get("video", str)) for entry in AnnotationFile(path, _FORM).named())
