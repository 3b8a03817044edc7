"""Breakfast and COIN as MA-LMM's authors publish them: an object by video, with a class and a number of frames.

Source: boheumd/MA-LMM, ``lavis/datasets/datasets/breakfast_cls_datasets.py`` and ``coin_cls_datasets.py``.
``COIN.json`` is not in the authors' repository; its keys are those that their class reads.
"""

from __future__ import annotations

from malmm.pipeline.evaluation.formats.annotation_file import AnnotationFile, Entry
from malmm.pipeline.evaluation.formats.reading import Reading, Source, of_tasks
from malmm.pipeline.evaluation.formats.text import as_caption
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.evaluation.sampling import evenly

__all__ = ["read_breakfast", "read_coin"]

_BREAKFAST = (
    "Breakfast's annotations of MA-LMM's authors (an object by video with class_name and frame_length)"
)
_COIN = (
    "COIN's annotations of MA-LMM's authors (an object by video with subset, target and num_frames_actual)"
)
# Videos that the authors leave out.
_NOT_BREAKFAST = {"P28-cam01-P28_cereals", "P27-stereo-P27_milk_ch0", "P28-cam02-P28_cereals"}
_NOT_COIN = {"AfiVmAjfTNs", "cjwtcDKTQM8"}


def read_breakfast(source: Source) -> Reading:
    """The questions of Breakfast. Raises DataSetError."""
    file = AnnotationFile.find(source.annotations, f"{source.split}.json", _BREAKFAST)
    questions = [
        _question(
            entry, source, "what type of breakfast is shown in the video?", "class_name", "frame_length"
        )
        for entry in file.named()
        if entry.key not in _NOT_BREAKFAST
    ]
    if not questions:
        raise file.wrong("it has no video")
    training: frozenset[tuple[str, str]] = frozenset()
    path = source.annotations / "train.json"
    if source.split != "train" and path.is_file():
        training = frozenset(("", entry.key) for entry in AnnotationFile(path, _BREAKFAST).named())
    return Reading(of_tasks(questions, source), (file.path,), training)


def read_coin(source: Source) -> Reading:
    """The questions of COIN's videos of a subset whose frames were counted. Raises DataSetError."""
    file = AnnotationFile.find(source.annotations, "COIN.json", _COIN)
    questions, subsets = [], set()
    for entry in file.named():
        if entry.key == "database":
            raise file.wrong(
                "it is COIN's own file, which has neither their labels nor frame counts, and theirs is not in their "
                "repository: without it, ask a table of your own with --dataset own"
            )
        subset = entry.get("subset", str)
        subsets.add(subset)
        if subset != source.split or entry.key in _NOT_COIN or "num_frames_actual" not in entry.values:
            continue
        prompt = "what is the activity in the video?"
        questions.append(_question(entry, source, prompt, "target", "num_frames_actual"))
    if not questions:
        raise file.wrong(
            f"no video of the subset {source.split!r} has num_frames_actual; its subsets are "
            f"{', '.join(sorted(subsets))} (--split)"
        )
    return Reading(of_tasks(questions, source), (file.path,))


def _question(entry: Entry, source: Source, prompt: str, label: str, frames: str) -> Question:
    count = entry.get(frames, int)
    if count < 1:
        raise entry.wrong(f"a video of {count} frames")
    return Question(
        entry.key,
        Clip(entry.key, evenly(0, count - 1, source.frames)),
        source.template.format(as_caption(prompt)),
        (entry.get(label, str),),
    )
