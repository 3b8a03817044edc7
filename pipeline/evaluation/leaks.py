"""A leak between training and test: the same video in both."""

from __future__ import annotations

from malmm.pipeline.evaluation.formats.reading import Reading

__all__ = ["leaked_videos"]


def leaked_videos(reading: Reading) -> list[str]:
    """Videos that are asked about and also in the training split, of the same task where the data set has tasks."""
    if not reading.training:
        return []
    by_task = any(task for task, _ in reading.training)
    asked = {(question.task if by_task else "", question.clip.video) for question in reading.questions}
    return sorted({video for _, video in asked & reading.training})
