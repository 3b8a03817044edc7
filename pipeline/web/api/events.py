"""Events that are streamed while a question is answered, one JSON object a line."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from malmm.pipeline.web.api.response_models import Span

__all__ = ["Answered", "Begun", "CitedMoment", "Done", "Event", "Failed", "Queued", "Started", "Words"]


class CitedMoment(BaseModel):
    """A moment that an answer cites: its times in seconds on the video's clock, and its thumbnail's address.

    ``spans`` are the spans of a moment that has several, else null.
    """

    start_s: float
    end_s: float
    timestamp_s: float
    similarity: float | None
    thumbnail: str | None
    spans: list[Span] | None = None


class Queued(BaseModel):
    """The question waits: ``ahead`` questions are before it."""

    event: Literal["queued"] = "queued"
    ahead: int


class Started(BaseModel):
    """The model starts with this question."""

    event: Literal["started"] = "started"


class Begun(BaseModel):
    """An answer begins: that of a segment, or of a whole video if ``segment_id`` is null."""

    event: Literal["begun"] = "begun"
    video_id: str
    name: str
    segment_id: str | None
    start_s: float
    end_s: float
    video_start_s: float
    moments: list[CitedMoment]


class Words(BaseModel):
    """The next words of the current answer."""

    event: Literal["words"] = "words"
    text: str


class Answered(BaseModel):
    """The complete text of the current answer."""

    event: Literal["answered"] = "answered"
    text: str


class Done(BaseModel):
    """All answers are complete. ``found`` is false if nothing relevant was found.

    ``similarity`` is the best moment's, and ``threshold`` the similarity that it has to reach.
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
