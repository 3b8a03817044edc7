"""What is told while a question is answered, one JSON object a line."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

__all__ = ["Answered", "Begun", "CitedMoment", "Done", "Event", "Failed", "Queued", "Started", "Words"]


class CitedMoment(BaseModel):
    """A moment that an answer is from: seconds on the video's clock, and its picture's address."""

    start_s: float
    end_s: float
    timestamp_s: float
    similarity: float | None
    thumbnail: str | None


class Queued(BaseModel):
    """Others are before this question."""

    event: Literal["queued"] = "queued"
    ahead: int


class Started(BaseModel):
    """It is this question's turn."""

    event: Literal["started"] = "started"


class Begun(BaseModel):
    """A segment, or without ``segment_id`` a whole video, begins to answer."""

    event: Literal["begun"] = "begun"
    video_id: str
    name: str
    segment_id: str | None
    start_s: float
    end_s: float
    video_start_s: float
    moments: list[CitedMoment]


class Words(BaseModel):
    """The next words of the answer that was begun last."""

    event: Literal["words"] = "words"
    text: str


class Answered(BaseModel):
    """That answer's whole text."""

    event: Literal["answered"] = "answered"
    text: str


class Done(BaseModel):
    """All answers are there. ``found`` is false where nothing relevant was found.

    ``similarity`` is the best moment's, and ``threshold`` what it has to reach.
    """

    event: Literal["done"] = "done"
    found: bool
    similarity: float | None
    threshold: float | None


class Failed(BaseModel):
    """The question could not be answered."""

    event: Literal["failed"] = "failed"
    kind: str
    message: str


Event = Annotated[Queued | Started | Begun | Words | Answered | Done | Failed, Field(discriminator="event")]
