"""Reviews: what people say of texts. The table is append-only, and the newest review of a text counts.

A text is known by its video, span, prompt's version and words, so that reviews outlive ``--reindex``, and that a text
which a model writes otherwise the next time is not reviewed. The model's text itself is never changed. Appending needs
no lease, since appends do not conflict with each other: people review while a job writes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import lance
import pyarrow as pa
from lance.commit import CommitConflictError

from malmm.pipeline.archive.compaction import compact_dataset, small_fragments
from malmm.pipeline.archive.location import ensure_dataset, lance_errors
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.tables import MOMENT, RECORD, REVIEWS

__all__ = ["LONGEST_CORRECTION", "VERDICTS", "Key", "Review", "add_reviews", "key_of", "newest_reviews"]

VERDICTS = ("right", "wrong")
LONGEST_CORRECTION = 4096
_TABLE = "reviews"
_MANY_FILES = 64
_KEEP_VERSIONS = timedelta(hours=1)
# A job that takes the lease over fences the table, which refuses an append that was begun before.
_TRIES = 8

Key = tuple[str, str, float, float, str]


@dataclass(frozen=True)
class Review:
    """One person's word on one text: ``right`` or ``wrong``, and what it should have been. Raises ConfigError.

    A correction belongs to a wrong text.
    """

    annotation_id: str
    video_id: str
    start_s: float
    end_s: float
    prompt_name: str
    prompt: str
    prompt_version: str
    text: str
    verdict: str
    correction: str | None
    reviewer: str
    reviewed_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    review_id: str = field(default_factory=lambda: secrets.token_hex(12))

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ConfigError(f"verdict {self.verdict!r}: one of {', '.join(VERDICTS)}")
        if self.correction is not None:
            if self.verdict == "right":
                raise ConfigError("a text that is right needs no correction")
            if not self.correction.strip():
                raise ConfigError("the correction is empty: leave it out, or write what the text should be")
            if len(self.correction) > LONGEST_CORRECTION:
                raise ConfigError(f"a correction has at most {LONGEST_CORRECTION} characters")

    @classmethod
    def of(cls, row: Mapping[str, Any], verdict: str, correction: str | None, reviewer: str) -> Review:
        """A review of a row of ``annotations``. Raises ConfigError, also for a correction of JSON by something else."""
        if correction and row.get("task") in (RECORD, MOMENT) and not _is_json(correction):
            raise ConfigError(
                f"the correction of a typed answer is JSON, as the answer is: {row['text'][:200]}"
            )
        names = (
            "annotation_id",
            "video_id",
            "start_s",
            "end_s",
            "prompt_name",
            "prompt",
            "prompt_version",
            "text",
        )
        return cls(
            **{name: row[name] for name in names}, verdict=verdict, correction=correction, reviewer=reviewer
        )

    @property
    def key(self) -> Key:
        """The text that it is about."""
        return key_of(asdict(self))

    @property
    def answer(self) -> str | None:
        """What is right: the text, or its correction; None where a wrong text was not corrected."""
        return self.text if self.verdict == "right" else self.correction


def key_of(row: Mapping[str, Any]) -> Key:
    """What a text is known by, of a row of ``annotations`` or ``reviews``."""
    span = round(row["start_s"], 3), round(row["end_s"], 3)
    return row["video_id"], row["prompt_version"], *span, row["text"]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def add_reviews(root: str, reviews: Sequence[Review]) -> None:
    """Append reviews to the table of the archive at ``root``. Raises ArchiveError."""
    if not reviews:
        return
    rows = pa.Table.from_pylist([asdict(review) for review in reviews], schema=REVIEWS)
    with lance_errors(root, f"write table {_TABLE!r} of"):
        for attempt in range(_TRIES):
            dataset = _opened(root)
            try:
                lance.write_dataset(rows, dataset, mode="append")
                break
            except CommitConflictError:
                if attempt == _TRIES - 1:
                    raise
        dataset = _opened(root)
        if small_fragments(dataset) >= _MANY_FILES:
            compact_dataset(dataset, _KEEP_VERSIONS)


def newest_reviews(archive: ArchiveReader, video_ids: Iterable[str] | None = None) -> dict[Key, Review]:
    """The newest review of each text, of these videos or of all. Raises ArchiveError."""
    filters = None if video_ids is None else list(is_in("video_id", video_ids))
    found: dict[Key, Review] = {}
    for reader in archive.archives:
        tables = TableReader(reader.root)
        if tables.has(_TABLE):
            for row in tables.rows(_TABLE, filters).sort_by("reviewed_at").to_pylist():
                review = Review(**row)
                found[review.key] = review
    return found


def _opened(root: str) -> lance.LanceDataset:
    return ensure_dataset(root, _TABLE, REVIEWS.empty_table())
