"""LVU as MA-LMM's authors publish it: ``train.json``, ``val.json``, ``test.json``.

Each is an object by video: ``duration`` in seconds, ``num_frames`` at 10 a second, and for each task that the video has
the label under the task's name. A clip is a window of 100 s, every 20 s; each is one question. Source: boheumd/MA-LMM,
``lavis/datasets/datasets/lvu_cls_datasets.py`` and ``run_scripts/lvu/test.sh``.
"""

from __future__ import annotations

from malmm.pipeline.evaluation.formats.annotation_file import AnnotationFile
from malmm.pipeline.evaluation.formats.reading import Reading, Source
from malmm.pipeline.evaluation.formats.text import as_caption
from malmm.pipeline.evaluation.questions import Clip, Question
from malmm.pipeline.evaluation.sampling import windows, within
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["LVU_TASKS", "read_lvu"]

LVU_TASKS = ("director", "genre", "relationship", "scene", "way_speaking", "writer", "year")
_WINDOW_S, _STRIDE_S = 100, 20
_FORM = "LVU's annotations of MA-LMM's authors (an object by video with duration, num_frames and tasks)"


def read_lvu(source: Source) -> Reading:
    """The questions of LVU's tasks. Raises DataSetError, and ConfigError for an unknown task."""
    unknown = [task for task in source.tasks if task not in LVU_TASKS]
    if unknown:
        raise ConfigError(f"--task {unknown[0]}: one of {', '.join(LVU_TASKS)}")
    file = AnnotationFile.find(source.annotations, f"{source.split}.json", _FORM)
    tasks = source.tasks or LVU_TASKS
    questions = []
    for entry in file.named():
        video = entry.key
        duration_s, frames = entry.get("duration", int), entry.get("num_frames", int)
        if frames < 1:
            raise entry.wrong(f"a video of {frames} frames")
        for task in tasks:
            if task not in entry.values:
                continue
            label = entry.get(task, str)
            prompt = source.template.format(as_caption(f"what is the {task} of the movie?"))
            for start_s in windows(duration_s, _WINDOW_S, _STRIDE_S):
                clip = Clip(video, within(start_s, _WINDOW_S, duration_s, frames, source.frames))
                questions.append(Question(f"{task}/{video}_{start_s}", clip, prompt, (label,), task=task))
    if not questions:
        raise file.wrong(f"no video has one of {', '.join(tasks)}")
    return Reading(tuple(questions), (file.path,), _training(source))


def _training(source: Source) -> frozenset[tuple[str, str]]:
    path = source.annotations / "train.json"
    if source.split == "train" or not path.is_file():
        return frozenset()
    return frozenset(
        (task, entry.key)
        for entry in AnnotationFile(path, _FORM).named()
        for task in LVU_TASKS
        if task in entry.values
    )
