"""Labels that come back from another tool: which of them are reviews of texts that the archive exported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.review_queue import reviewable_rows
from malmm.pipeline.archive.reviews import Key, Review, key_of, newest_reviews

__all__ = ["ReturnedReviews"]

# A region in whole frames is off by less than a frame at each end.
_NEAR_S = 0.1


class ReturnedReviews:
    """Finds the text that a label was made from: by its id, else by video, prompt and span."""

    def __init__(self, archive: ArchiveReader) -> None:
        rows = reviewable_rows(archive)
        self._by_id = {row["annotation_id"]: row for row in rows}
        self._by_prompt: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            self._by_prompt[row["video_id"], row["prompt_name"]].append(row)
        self._newest: dict[Key, Review] = newest_reviews(archive)
        self._changed: set[Key] = set()

    def of(
        self, label: Mapping[str, Any], video_id: str, span_s: tuple[float, float], text: str, reviewer: str
    ) -> Review | None:
        """The review that a label is; None if it is about no text of the archive, and belongs in as it is."""
        row = self._by_id.get(str(label.get("annotation_id") or ""))
        if row is None or row["video_id"] != video_id:
            near = (
                each
                for each in self._by_prompt[video_id, str(label.get("task") or "")]
                if abs(each["start_s"] - span_s[0]) <= _NEAR_S and abs(each["end_s"] - span_s[1]) <= _NEAR_S
            )
            row = next(near, None)
        if row is None:
            return None
        same = text == row["text"]
        return Review.of(row, "right" if same else "wrong", None if same else text, reviewer)

    def is_new(self, review: Review) -> bool:
        """Whether the newest review of the text says something else. Counts this one as the newest from then on.

        A label that was left as it is takes back no correction of the same text by another label of the same file.
        """
        if review.verdict == "wrong":
            self._changed.add(review.key)
        elif review.key in self._changed:
            return False
        before = self._newest.get(review.key)
        if before is not None and (before.verdict, before.correction) == (review.verdict, review.correction):
            return False
        self._newest[key_of(vars(review))] = review
        return True
