"""Questions of a data set, and the part of a video that each is about."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from malmm.pipeline.schema.stable_ids import stable_id

__all__ = ["FRAME_RATE", "Clip", "Question", "by_clip"]

#: Frames are numbered at this many a second, as the authors extract them.
FRAME_RATE = 10


@dataclass(frozen=True)
class Clip:
    """The part of a video that a question is asked about.

    ``video`` is the annotation's name of the video. ``frames`` are the numbers of the frames to be watched, at
    ``FRAME_RATE`` a second from 0 on. None leaves them to the worker, which knows the length: ``count`` frames spread
    evenly over seconds [start_s, end_s], or to the end of the video.
    """

    video: str
    frames: tuple[int, ...] | None = None
    count: int = 0
    start_s: float = 0.0
    end_s: float = math.inf

    @cached_property
    def clip_id(self) -> str:
        """A hash of the video's name and the frames."""
        return stable_id("clip", self.video, repr(self.frames or (self.count, self.start_s, self.end_s)))

    @property
    def length_s(self) -> float:
        """Seconds of video; 0 if they are not known."""
        if self.frames is not None:
            return (self.frames[-1] - self.frames[0] + 1) / FRAME_RATE
        return self.end_s - self.start_s if math.isfinite(self.end_s) else 0.0


@dataclass(frozen=True)
class Question:
    """A question about a clip, as it is put to the model.

    ``answers`` is the right answer, or the references of a caption. ``choices`` are the answers to choose from.
    ``task`` is the data set's own kind of question; empty if it has none. ``group`` is the video that figures are
    resampled by.
    """

    question_id: str
    clip: Clip
    prompt: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    task: str = ""

    @property
    def group(self) -> str:
        """The video: questions about one video are not independent of each other."""
        return self.clip.video


def by_clip(questions: Iterable[Question]) -> dict[Clip, list[Question]]:
    """Questions by their clip, in order. Those of one clip share its memory."""
    found: dict[Clip, list[Question]] = {}
    for question in questions:
        found.setdefault(question.clip, []).append(question)
    return found
