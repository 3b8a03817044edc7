"""Import annotations that other programs or people made, as texts with spans of their own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from malmm.pipeline.archive.foreign_tables import read_foreign
from malmm.pipeline.archive.given_texts import Added
from malmm.pipeline.archive.location import absolute
from malmm.pipeline.archive.returned_reviews import ReturnedReviews
from malmm.pipeline.archive.reviews import Review, add_reviews
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.exit_codes import exit_code_of
from malmm.pipeline.schema.given_texts import GivenRows, GivenText, Track

__all__ = ["COLUMNS", "ImportConfig", "ImportReport", "import_annotations"]

COLUMNS = {
    "video": ("video", "video_id", "uri", "path"),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end"),
    "span": ("span",),
    "task": ("task", "label_type"),
    "text": ("text", "label"),
    "score": ("score", "confidence"),
    "source": ("source", "annotator"),
    "language": ("language",),
    "speaker": ("speaker",),
}
"""What is read of a row, and the names that its column may have."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SPAN = re.compile(r"\s*([\d:.]+)\s*(?:-|to|,)\s*([\d:.]+)\s*")
_ROWS_A_COMMIT = 10_000
_MOST_SENTENCES = 1000
_LONGEST_TEXT = 100_000


@dataclass(frozen=True)
class ImportConfig:
    """The table to import and the archive. ``task`` is that of rows that name none. Raises ConfigError."""

    archive: str
    file: str
    task: str = "imported"

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if not _NAME.fullmatch(self.task):
            raise ConfigError(f"--task {self.task!r}: up to 64 letters, digits, '_', '-' and '.'")


@dataclass
class ImportReport:
    """Result: the number of rows, of texts that were new, changed a stored one or were stored already, and of rows
    ``left_out``. ``problems`` has a sentence for each of these, up to a thousand. ``reviews`` counts labels of texts
    that the archive had exported, which were taken as reviews, unless they said nothing new."""

    archive: str
    rows: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    left_out: int = 0
    reviews: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if all rows went in, 3 if some were left out, 1 if all were."""
        return exit_code_of(interrupted=False, failed=self.left_out > 0, done=self.left_out < self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"exit_code": self.exit_code}


@dataclass(frozen=True)
class _KnownVideo:
    video_id: str
    start_s: float
    end_s: float


def import_annotations(config: ImportConfig) -> ImportReport:
    """Store the rows of a table as texts. The same table again changes nothing; a row whose text differs is replaced.

    A row's key is its video and the video's content, task, source, language and span, and its place among the rows that
    have these in common. A row that cannot be stored costs a sentence with its number, and the rest goes in. Raises
    ConfigError for a file that is not a table, ArchiveError, and ArchiveBusy.
    """
    archive = Archive.open(config.archive)
    known, fingerprints = _known(archive)
    report, made = ImportReport(archive.root), GivenRows(fingerprints)
    origin, added = Path(config.file).name, Added()
    waiting: list[tuple[str, Track, GivenText]] = []
    returned = ReturnedReviews(archive) if config.file.lower().endswith(".json") else None
    reviews: list[Review] = []
    with archive.held():
        for place, label, text in _texts(config, known, origin):
            report.rows += 1
            review: Review | None = None
            if returned is not None and not isinstance(text, str):
                try:
                    review = _review(returned, label, text)
                except ConfigError as error:
                    text = str(error)
            if isinstance(text, str):
                report.left_out += 1
                if len(report.problems) < _MOST_SENTENCES:
                    report.problems.append(f"{config.file}, {place}: {text}")
                continue
            if returned is not None and review is not None:
                report.reviews += 1
                if returned.is_new(review):
                    reviews.append(review)
                continue
            waiting.append(text)
            if len(waiting) >= _ROWS_A_COMMIT:
                added, waiting = added + archive.put_given(made.of(waiting)), []
        if waiting:
            added += archive.put_given(made.of(waiting))
        add_reviews(archive.root, reviews)
        if added.new or added.changed:
            archive.update_indexes()
    report.new, report.changed, report.unchanged = added.new, added.changed, added.unchanged
    return report


def _known(archive: Archive) -> tuple[dict[str, _KnownVideo | None], dict[str, str]]:
    """Videos by id, URI and file name (None if several have it), and the fingerprint of each by id."""
    known: dict[str, _KnownVideo | None] = {}
    fingerprints = {}
    for row in (
        archive.videos().select(["video_id", "uri", "fingerprint", "start_s", "duration_s"]).to_pylist()
    ):
        length_s = row["duration_s"] or math.inf
        video = _KnownVideo(row["video_id"], row["start_s"], row["start_s"] + length_s)
        name = row["uri"].rstrip("/").rpartition("/")[2]
        for short in dict.fromkeys((name, PurePosixPath(name).stem)):
            known[short] = None if short in known else video
        known[row["uri"]] = known[row["video_id"]] = video
        fingerprints[row["video_id"]] = row["fingerprint"]
    return known, fingerprints


def _texts(
    config: ImportConfig, known: dict[str, _KnownVideo | None], origin: str
) -> Iterator[tuple[str, dict[str, Any], tuple[str, Track, GivenText] | str]]:
    """Where each row is, its values, and its text or a sentence."""
    for place, row in read_foreign(config.file):
        if isinstance(row, str):
            yield place, {}, row
            continue
        values = {name: next((row[n] for n in names if n in row), None) for name, names in COLUMNS.items()}
        try:
            yield (
                place,
                row,
                _text(values | {"from_start": row.get("from_start")}, known, origin, config.task),
            )
        except ConfigError as error:
            yield place, row, str(error)


def _review(
    returned: ReturnedReviews, label: dict[str, Any], text: tuple[str, Track, GivenText]
) -> Review | None:
    """A label that came back as a review; None for a new one. Raises ConfigError for a correction that is not one."""
    video, track, given = text
    return returned.of(label, video, (given.start_s, given.end_s), given.text, track.origin)


def _text(
    values: dict[str, Any], known: dict[str, _KnownVideo | None], origin: str, task: str
) -> tuple[str, Track, GivenText]:
    """A row's video, track and text. Raises ConfigError with what is wrong."""
    named = _words(values["video"])
    if not named:
        raise ConfigError(f"it names no video: a column of {', '.join(COLUMNS['video'])} does")
    video = known[named] if named in known else known.get(absolute(named), _MISSING)
    if video is _MISSING:
        raise ConfigError(f"the archive holds no video {named!r}")
    if video is None:
        raise ConfigError(
            f"several videos of the archive are called {named!r}: name one by its address or id"
        )
    text = _words(values["text"])
    if not text:
        raise ConfigError("it has no text")
    if len(text) > _LONGEST_TEXT:
        raise ConfigError(f"its text has {len(text)} characters, and {_LONGEST_TEXT} are the most")
    name = _words(values["task"]) or task
    if not _NAME.fullmatch(name):
        raise ConfigError(f"its task {name!r} is not usable: up to 64 letters, digits, '_', '-' and '.'")
    start_s, end_s = _span(values, video)
    track = Track(name, origin=_words(values["source"]) or origin, language=_words(values["language"]))
    score = values["score"]
    return (
        video.video_id,
        track,
        GivenText(
            start_s,
            end_s,
            text,
            _words(values["speaker"]),
            None if score in (None, "") else _number("score", score),
        ),
    )


_MISSING: Any = object()


def _words(value: Any) -> str:
    """A cell's text, without the apostrophe that an export has put before what looks like a formula."""
    text = "" if value is None else str(value).strip()
    return text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@") else text


def _span(values: dict[str, Any], video: _KnownVideo) -> tuple[float, float]:
    """The row's span in seconds; the whole video if it says none. Raises ConfigError."""
    start, end = values["start_s"], values["end_s"]
    span = values["span"]
    if isinstance(span, dict):
        start, end = span.get("start_s"), span.get("end_s")
    elif isinstance(span, list | tuple) and len(span) == 2:
        start, end = span
    elif span not in (None, ""):
        match = _SPAN.fullmatch(str(span))
        if match is None:
            raise ConfigError(f"its span {span!r} is no pair of times: write 12.5-20 or 0:12-0:20")
        start, end = match.groups()
    begin_s = video.start_s if values.get("from_start") else 0.0
    start_s = video.start_s if start in (None, "") else begin_s + _seconds("start", start)
    end_s = video.end_s if end in (None, "") else begin_s + _seconds("end", end)
    if start_s >= video.end_s:
        raise ConfigError(f"it begins at {start_s:g} s, and the video ends at {video.end_s:g} s")
    if start_s < video.start_s and end_s <= video.start_s:
        raise ConfigError(f"it ends at {end_s:g} s, and the video begins at {video.start_s:g} s")
    start_s = max(start_s, video.start_s)
    if end_s < start_s:
        raise ConfigError(f"it ends at {end_s:g} s, before it begins at {start_s:g} s")
    # A video whose length is unknown has no end.
    return start_s, min(end_s, video.end_s) if math.isfinite(video.end_s) else (
        end_s if end_s < math.inf else start_s
    )


def _seconds(what: str, value: Any) -> float:
    if isinstance(value, str) and ":" in value:
        parts = value.strip().split(":")
        if len(parts) > 3:
            raise ConfigError(f"its {what} {value!r} is no time: write seconds, M:SS or H:MM:SS")
        return math.fsum(60**power * _number(what, part) for power, part in enumerate(reversed(parts)))
    return _number(what, value)


def _number(what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"its {what} {value!r} is no number") from error
    if not math.isfinite(number):
        raise ConfigError(f"its {what} {value!r} is no number")
    return number
