"""MLVU, Video-MME, EgoSchema and OVO-Bench: questions with choices, in the forms that their authors publish.

Sources: JUNJIE99/MLVU and FlagOpen/FlagEmbedding, ``research/MLVU/data`` (``video``, ``question``, ``candidates``,
``answer``); BradyFU/Video-MME, ``evaluation/output_test_template.json`` (``choices``), and its parquet (``options``),
both with ``answer`` as a letter; egoschema/EgoSchema (``questions.json``, ``subset_answers.json``); JoeLeelyf/OVO-Bench
(``utils/OVOBench.py``: ``realtime``, ``options``, ``gt``, ``test_info``).

Some published questions have two choices of one text: the one that the annotations mean counts, in MLVU the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from malmm.pipeline.evaluation.formats.annotation_file import AnnotationFile, Entry
from malmm.pipeline.evaluation.formats.reading import Reading, Source, of_tasks, with_choices
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.schema.errors import DataSetError

__all__ = ["read_egoschema", "read_mlvu", "read_ovo_bench", "read_video_mme"]

_MLVU = "MLVU's annotations (a list with video, question, candidates and answer)"
_VIDEO_MME = "Video-MME's annotations (a list of videos with questions, or a parquet of questions)"
_EGOSCHEMA = "EgoSchema's questions (a list with q_uid, question and 'option 0' to 'option 4')"
_EGO_ANSWERS = "EgoSchema's answers (an object from q_uid to the number of an option)"
_OVO = "OVO-Bench's annotations (a list with id, task, video, question, options, gt and realtime)"
_LETTER = re.compile(r"^\s*\(?([A-Z])[.):]\s*")
_YES_NO = ("Yes", "No")


def read_mlvu(source: Source) -> Reading:
    """MLVU's tasks with choices: all ``*.json`` of the directory. Tasks of free text are left out, with a note.

    Videos of different tasks share names and lie in folders named like the files, which are part of the names here.
    """
    place = source.annotations
    paths = [place] if place.is_file() else sorted(place.glob("*.json"))
    if not paths:
        raise DataSetError(
            f"{place} has no *.json: --annotations is the directory with {_MLVU}", path=str(place)
        )
    questions, without = [], 0
    for path in paths:
        for number, entry in enumerate(AnnotationFile(path, _MLVU).listed()):
            if "candidates" not in entry.values:
                without += 1
                continue
            choices = _texts(entry, "candidates")
            task = str(entry.values.get("question_type", path.stem))
            clip = Clip(f"{path.stem}/{entry.get('video', str)}", count=source.frames)
            answer = entry.get("answer", str)
            if answer not in choices:
                raise entry.wrong(f"its choices lack the answer {answer!r}")
            name, right = f"{path.stem}/{number}", choices.index(answer)
            questions.append(_question(entry, name, clip, choices, right, task, source))
    if not questions:
        raise AnnotationFile(paths[0], _MLVU).wrong("no entry has candidates")
    notes = (f"{without} questions of free text have no choices: they are left out.",) if without else ()
    return Reading(of_tasks(questions, source), tuple(paths), notes=notes)


def read_video_mme(source: Source) -> Reading:
    """Video-MME, by length of video (short, medium, long). Raises DataSetError."""
    place = source.annotations
    paths = [place] if place.is_file() else sorted([*place.glob("*.parquet"), *place.glob("*.json")])
    if not paths:
        raise DataSetError(
            f"{place} has no *.json or *.parquet: --annotations is {_VIDEO_MME}", path=str(place)
        )
    questions = []
    for path in paths:
        for video, entry in _video_mme(AnnotationFile(path, _VIDEO_MME)):
            key = "choices" if "choices" in entry.values else "options"
            choices = tuple(_LETTER.sub("", option) for option in _texts(entry, key))
            right = _place_of(entry, entry.get("answer", str), choices)
            name = video.values.get("videoID") or video.get("video_id", str)
            clip = Clip(str(name), count=source.frames)
            task = str(video.values.get("duration") or video.values.get("duration_category", ""))
            questions.append(
                _question(entry, entry.get("question_id", str), clip, choices, right, task, source)
            )
    if not questions:
        raise AnnotationFile(paths[0], _VIDEO_MME).wrong("it has no question")
    return Reading(of_tasks(questions, source), tuple(paths))


def _video_mme(file: AnnotationFile) -> Iterator[tuple[Entry, Entry]]:
    """Each question with the entry of its video, which in the flat forms is the same."""
    if file.path.suffix == ".parquet":
        try:
            rows: list[dict[str, Any]] = pq.read_table(file.path).to_pylist()
        except (OSError, ValueError) as error:
            raise file.wrong(f"it is not a parquet file ({error})") from error
        entries = [Entry(file, f"row {place + 1}", row) for place, row in enumerate(rows)]
    else:
        entries = file.listed()
    for entry in entries:
        if "questions" not in entry.values:
            yield entry, entry
            continue
        for place, values in enumerate(entry.get("questions", list)):
            if not isinstance(values, dict):
                raise entry.wrong(f"question {place + 1} is not an object")
            yield entry, Entry(file, f"question {place + 1} of {entry.name}", values)


def read_egoschema(source: Source) -> Reading:
    """EgoSchema's questions whose answers are public. Raises DataSetError."""
    folder = source.annotations if source.annotations.is_dir() else source.annotations.parent
    file = AnnotationFile.find(source.annotations, "questions.json", _EGOSCHEMA)
    told = AnnotationFile.find(folder, "subset_answers.json", _EGO_ANSWERS)
    answers = told.read()
    if not isinstance(answers, dict):
        raise told.wrong("it is not an object")
    questions = []
    for entry in file.listed():
        uid = entry.get("q_uid", str)
        if uid not in answers:
            continue
        choices = tuple(entry.get(f"option {number}", str) for number in range(5))
        place = answers[uid]
        if not isinstance(place, int) or not 0 <= place < len(choices):
            raise told.wrong(f"the answer to {uid!r} is {place!r}, not the number of an option")
        clip = Clip(uid, count=source.frames)
        questions.append(_question(entry, uid, clip, choices, place, "", source))
    if not questions:
        raise told.wrong(f"it answers no question of {file.path}")
    return Reading(of_tasks(questions, source), (file.path, told.path))


def read_ovo_bench(source: Source) -> Reading:
    """OVO-Bench, each question on the video up to its time. Raises DataSetError.

    Backward and real-time tasks have options. Of the forward tasks, SSR and CRR are answered by yes or no at each of
    their times, REC by a number.
    """
    new = source.annotations / "ovo_bench_new.json"
    file = AnnotationFile.find(new if new.is_file() else source.annotations, "ovo_bench.json", _OVO)
    questions = []
    for entry in file.listed():
        task, video = entry.get("task", str), entry.get("video", str)
        name = f"{task}/{entry.values.get('id', entry.name)}"
        if "test_info" not in entry.values:
            choices, place = _texts(entry, "options"), entry.get("gt", int)
            if not 0 <= place < len(choices):
                raise entry.wrong(f"gt is {place} and there are {len(choices)} options")
            clip = Clip(video, count=source.frames, end_s=float(entry.get("realtime", float)))
            questions.append(_question(entry, name, clip, choices, place, task, source))
            continue
        for number, values in enumerate(entry.get("test_info", list)):
            if not isinstance(values, dict):
                raise entry.wrong(f"test_info {number + 1} is not an object")
            moment = Entry(file, f"test_info {number + 1} of {entry.name}", values)
            clip = Clip(video, count=source.frames, end_s=float(moment.get("realtime", float)))
            questions.append(_forward(entry, moment, f"{name}/{number}", clip, task, source))
    if not questions:
        raise file.wrong("it has no question")
    return Reading(of_tasks(questions, source), (file.path,))


def _forward(entry: Entry, moment: Entry, name: str, clip: Clip, task: str, source: Source) -> Question:
    if task == "REC":
        prompt = f"How many times did they {entry.get('activity', str)}? Answer with a number only."
        return Question(
            name, clip, source.template.format(prompt), (str(moment.get("count", int)),), task=task
        )
    if task == "SSR":
        prompt = (
            f"Is the person in the video doing this step now: {moment.get('step', str)}? Answer Yes or No."
        )
    else:
        prompt = (
            f"Do the frames up to now hold enough to answer this question: {entry.get('question', str)} "
            "Answer Yes or No."
        )
    right = _YES_NO[0] if moment.get("type", int) else _YES_NO[1]
    return Question(name, clip, source.template.format(prompt), (right,), _YES_NO, task)


def _texts(entry: Entry, key: str) -> tuple[str, ...]:
    choices = tuple(str(choice) for choice in entry.get(key, list))
    if len(set(choices)) < 2:
        raise entry.wrong(f"{key!r} lacks two choices that differ")
    return choices


def _place_of(entry: Entry, letter: str, choices: tuple[str, ...]) -> int:
    place = ord(letter) - ord("A") if len(letter) == 1 else -1
    if not 0 <= place < len(choices):
        raise entry.wrong(f"the answer {letter!r} is not the letter of one of {len(choices)} options")
    return place


def _question(
    entry: Entry, name: str, clip: Clip, choices: tuple[str, ...], right: int, task: str, source: Source
) -> Question:
    prompt, offered, answer = with_choices(entry.get("question", str), choices, right, source)
    return Question(name, clip, prompt, (answer,), offered, task)
