"""Routes to review texts: the queue, and a person's word on one of them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from malmm.pipeline.archive.review_queue import Reviewable, review_queue, reviewable_rows
from malmm.pipeline.archive.reviews import LONGEST_CORRECTION, Review, add_reviews, key_of, newest_reviews
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.web.api.problems import NotAllowed, NotThere, documented
from malmm.pipeline.web.api.reindex_retry import renewing
from malmm.pipeline.web.display_names import name_of
from malmm.pipeline.web.settings import MOST_RESULTS
from malmm.pipeline.web.state.shared_state import Site

__all__ = ["GivenReview", "ReviewItem", "ReviewPage", "review_routes"]


class GivenReview(BaseModel):
    """A person's word on a text: right, or wrong and perhaps what it should have been."""

    model_config = ConfigDict(extra="forbid")

    annotation_id: str = Field(pattern="^[0-9a-f]{24}(-[0-9]{4,6})?$")
    verdict: Literal["right", "wrong"]
    correction: str | None = Field(default=None, pattern=r"\S", max_length=LONGEST_CORRECTION)


class ReviewItem(BaseModel):
    """A text to review, with the newest review of it. ``thumbnail`` is a picture of its segment or video."""

    annotation_id: str
    video_id: str
    name: str
    video_start_s: float
    start_s: float
    end_s: float
    whole_video: bool
    prompt_name: str
    prompt: str
    text: str
    score: float | None
    thumbnail: str
    verdict: str | None
    correction: str | None
    reviewer: str | None
    reviewed_at: datetime | None


class ReviewPage(BaseModel):
    """A page of texts; ``next`` is the cursor of the following page, null at the end."""

    total: int
    items: list[ReviewItem]
    next: str | None


def review_routes(site: Site) -> APIRouter:
    """The routes of one archive."""
    routes = APIRouter(
        prefix="/api",
        tags=["review"],
        responses=documented(401, 403, 422, 503),
        route_class=renewing(site.live),
    )

    @routes.get("/reviews")
    def list_reviews(
        state: Annotated[
            Literal["unreviewed", "reviewed", "right", "wrong", "all"], Query(description="which texts")
        ] = "unreviewed",
        prompt: Annotated[str | None, Query(max_length=64, description="only of this prompt")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 50,
        cursor: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> ReviewPage:
        """Texts of models, lowest score first."""
        found = review_queue(site.live.reader, state=state, prompt=prompt)
        end = cursor + limit
        return ReviewPage(
            total=len(found),
            items=_items(site, found[cursor:end]),
            next=str(end) if end < len(found) else None,
        )

    @routes.post("/reviews", responses=documented(400, 404, 413))
    def add_review(given: GivenReview, request: Request) -> ReviewItem:
        """Say whether a text is right, and correct it. Needs a token with the right to review."""
        visitor = site.keys.visitor(request.headers)
        if visitor is None or not visitor.may_review:
            raise NotAllowed("This token may read and not review: ask for one that may.")
        reader = site.live.reader
        rows = reviewable_rows(reader, annotation_ids=[given.annotation_id])
        if not rows:
            raise NotThere("The archive holds no such text of a model.")
        review = Review.of(rows[0], given.verdict, given.correction, visitor.name)
        add_reviews(reader.home_of(review.video_id).root, [review])
        newest = newest_reviews(reader, [review.video_id])
        return _items(site, [Reviewable(rows[0], newest.get(key_of(rows[0])))])[0]

    return routes


def _items(site: Site, found: list[Reviewable]) -> list[ReviewItem]:
    videos = {
        row["video_id"]: row
        for row in site.live.reader.video_rows({each.row["video_id"] for each in found}).to_pylist()
    }
    items = []
    for each in found:
        row, review = each.row, each.review
        video = videos.get(row["video_id"])
        if video is None:
            # Forgotten or pruned a moment ago.
            continue
        segment = row["segment_id"]
        picture = f"videos/{row['video_id']}" if segment is None else f"memories/{memory_id(segment, 0)}"
        fields = {name: row[name] for name in ReviewItem.model_fields if name in row}
        items.append(
            ReviewItem(
                **fields,
                name=name_of(video["uri"]),
                video_start_s=video["start_s"],
                whole_video=segment is None and row["task"] != "moment",
                thumbnail=f"api/{picture}/thumbnail",
                verdict=review.verdict if review else None,
                correction=review.correction if review else None,
                reviewer=review.reviewer if review else None,
                reviewed_at=review.reviewed_at if review else None,
            )
        )
    return items
