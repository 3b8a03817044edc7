"""Texts in the order in which people should review them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from malmm.pipeline.archive.filter_values import text_literal
from malmm.pipeline.archive.moment_words import is_list_of_moments
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.reviews import Review, key_of, newest_reviews
from malmm.pipeline.schema.ids import moments_version
from malmm.pipeline.schema.tables import GIVEN_TASKS, MOMENT

__all__ = ["STATES", "Reviewable", "review_queue", "reviewable_rows"]

#: Which texts: those without a review, with one, and by its verdict.
STATES = ("unreviewed", "reviewed", "right", "wrong", "all")
_COLUMNS = [
    "annotation_id",
    "video_id",
    "segment_id",
    "start_s",
    "end_s",
    "task",
    "prompt_name",
    "prompt",
    "prompt_version",
    "text",
    "score",
    "created_at",
]
# Texts that came with a video are not the model's, and a list of timed records is reviewed record by record.
_OF_MODELS = f"task NOT IN ({', '.join(repr(task) for task in GIVEN_TASKS if task != MOMENT)})"


@dataclass(frozen=True)
class Reviewable:
    """A text of a model, and the newest review of it."""

    row: dict[str, Any]
    review: Review | None


def review_queue(
    archive: ArchiveReader, *, state: str = "unreviewed", prompt: str | None = None
) -> list[Reviewable]:
    """The latest version's texts, lowest score first, those without a score last, then in time order.

    Only of videos that are done. Raises ArchiveError.
    """
    found = reviewable_rows(archive, prompt)
    reviews = newest_reviews(archive)
    wanted: Callable[[Review | None], bool] = {
        "unreviewed": lambda review: review is None,
        "reviewed": lambda review: review is not None,
        "right": lambda review: review is not None and review.verdict == "right",
        "wrong": lambda review: review is not None and review.verdict == "wrong",
        "all": lambda review: True,
    }[state]
    pairs = ((row, reviews.get(key_of(row))) for row in found)
    return [Reviewable(row, review) for row, review in pairs if wanted(review)]


def reviewable_rows(
    archive: ArchiveReader, prompt: str | None = None, annotation_ids: Iterable[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of texts that can be reviewed, in the order of ``review_queue``: of a prompt, with these ids, or all."""
    parts = [_OF_MODELS, *([f"prompt_name = {text_literal(prompt)}"] if prompt is not None else [])]
    filters = [" AND ".join(parts)]
    if annotation_ids is not None:
        filters = [" AND ".join([*parts, each]) for each in is_in("annotation_id", annotation_ids)]
    rows = archive.tables.rows("annotations", filters, _COLUMNS).to_pylist()
    done = archive.completed_videos()
    latest = {each["prompt_name"]: each["prompt_version"] for each in reversed(archive.prompt_versions())}
    versions = {*latest.values(), *map(moments_version, latest.values())}
    found = [
        row
        for row in rows
        if row["video_id"] in done and row["prompt_version"] in versions and not is_list_of_moments(row)
    ]
    return sorted(found, key=_order)


def _order(row: dict[str, Any]) -> tuple[float, str, str, float, str]:
    score = math.inf if row["score"] is None else row["score"]
    return score, row["prompt_name"], row["video_id"], row["start_s"], row["annotation_id"]
