"""A leak between training and test: the same video in both."""

from __future__ import annotations

from malmm.pipeline.evaluation.formats.reading import Reading
from malmm.pipeline.evaluation.video_folder import VideoFolder
from malmm.pipeline.schema.errors import DataSetError

__all__ = ["leaked_videos"]


def leaked_videos(reading: Reading, folder: VideoFolder | None = None) -> list[str]:
    """Videos that are asked about and also in the training split, of the same task where the data set has tasks.

    Names that find one file in ``folder`` are one video.
    """
    if not reading.training:
        return []
    by_task = any(task for task, _ in reading.training)
    training = {(task, _video(name, folder)) for task, name in reading.training}
    asked = {(question.task if by_task else "", question.clip.video) for question in reading.questions}
    return sorted({name for task, name in asked if (task, _video(name, folder)) in training})


def _video(name: str, folder: VideoFolder | None) -> str:
    try:
        return (folder and folder.find(name)) or name
    except DataSetError:
        # Several files have the name, which is an error only where they are asked about.
        return name
