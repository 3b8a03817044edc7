"""The table of examples: a row is a clip, a prompt and its answer. Read and checked before anything starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.operators.media.sandbox.client import process_sandbox
from malmm.operators.pick_frames import length_of
from malmm.pipeline.archive.foreign_tables import read_foreign
from malmm.pipeline.evaluation.video_folder import VideoFolder
from malmm.pipeline.schema.errors import DataSetError, MediaError

__all__ = ["SPLITS", "Example", "Examples", "read_examples"]

#: The splits of a table, and the names that a row may give them. No name is training.
SPLITS = {
    "train": ("train", "training", ""),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "held-back"),
}
_NAMES = {"prompt": ("prompt", "question"), "answer": ("answer", "text")}
_FORM = "video, prompt and answer are needed; start_s, end_s and split may be there"
# Headers round: a span may end so much behind the end of its video.
_SLACK_S = 1.0
_RATE = 10


@dataclass(frozen=True)
class Example:
    """A clip with a prompt and its answer. ``first`` and ``last`` are its frames at 10 a second, counted from the
    video's first, and ``end_s`` its end in seconds from there."""

    video: str
    source: str
    first: int
    last: int
    end_s: float
    prompt: str
    answer: str


@dataclass(frozen=True)
class Examples:
    """The examples of a table by split. ``test`` counts rows that are left for an evaluation."""

    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: int

    @property
    def videos(self) -> int:
        """The number of videos that are trained on."""
        return len({example.source for example in self.train})


@dataclass(frozen=True)
class _Row:
    place: str
    split: str
    video: str
    start_s: float
    end_s: float
    prompt: str
    answer: str


def read_examples(
    data: str, videos: str | None, *, tell: Callable[[int, int], None] = lambda done, total: None
) -> Examples:
    """Read a table (CSV, JSON lines or Parquet) and the headers of its videos.

    Columns: ``video``, ``prompt`` (or ``question``), ``answer``, and where wanted ``start_s``, ``end_s`` and
    ``split``. ``tell(done, total)`` is called for each video. Raises ConfigError for a file that is not a table, and
    DataSetError for a row that cannot be trained on, a video that is missing or ends before its span, and one in
    training and in another split.
    """
    rows = _read(data)
    sources = _found(data, rows, videos)
    _refuse_leak(data, rows, sources)
    lengths: dict[str, tuple[int, float, float]] = {}
    for row in rows:
        source = sources[row.video]
        if source in lengths:
            continue
        try:
            lengths[source] = length_of(source, process_sandbox())
        except MediaError as error:
            raise _wrong(data, row.place, str(error)) from error
        tell(len(lengths), len(set(sources.values())))
    split: dict[str, list[Example]] = {name: [] for name in SPLITS}
    for row in rows:
        split[row.split].append(_example(data, row, sources[row.video], *lengths[sources[row.video]]))
    if not split["train"]:
        raise _wrong(data, "", "no row of it is in training: its column split says train, or nothing")
    return Examples(tuple(split["train"]), tuple(split["val"]), len(split["test"]))


def _wrong(data: str, place: str, what: str) -> DataSetError:
    return DataSetError(f"{data}, {place}: {what}" if place else f"{data}: {what}", path=data)


def _read(data: str) -> list[_Row]:
    rows: list[_Row] = []
    for place, values in read_foreign(data):
        if isinstance(values, str):
            raise _wrong(data, place, values)
        if not rows:
            for column in ("video", "prompt", "answer"):
                if not any(name in values for name in _NAMES.get(column, (column,))):
                    raise _wrong(data, "", f"it has no column {column!r}: {_FORM}")
        rows.append(_row(data, place, values))
    if not rows:
        raise _wrong(data, "", f"it has no rows: {_FORM}")
    return rows


def _row(data: str, place: str, values: dict[str, Any]) -> _Row:
    def text(column: str) -> str:
        for name in _NAMES.get(column, (column,)):
            if name in values:
                value = values[name]
                return "" if value is None else str(value).strip()
        return ""

    named = text("split").lower()
    split = next((name for name, others in SPLITS.items() if named in others), None)
    if split is None:
        raise _wrong(data, place, f"its split is {named!r}: one of {', '.join(SPLITS)}")
    for column in ("video", "prompt", "answer"):
        if not text(column):
            raise _wrong(data, place, f"its {column} is empty")
    start_s = _seconds(data, place, values, "start_s", 0.0)
    end_s = _seconds(data, place, values, "end_s", math.inf)
    if not 0 <= start_s < end_s:
        raise _wrong(data, place, f"its span is from {start_s:g} s to {end_s:g} s")
    return _Row(place, split, text("video"), start_s, end_s, text("prompt"), text("answer"))


def _seconds(data: str, place: str, values: dict[str, Any], column: str, default: float) -> float:
    value = values.get(column)
    if value is None or value == "":
        return default
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise _wrong(data, place, f"its {column} is {value!r}, not a number of seconds")
    return seconds


def _found(data: str, rows: list[_Row], videos: str | None) -> dict[str, str]:
    """Where each name's video lies. Raises DataSetError for the first that is missing, with how many are."""
    place = videos or str(Path(data).parent)
    folder: VideoFolder | None = None
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for row in rows:
        if row.video in found or row.video in missing:
            continue
        if "://" in row.video:
            found[row.video] = row.video
            continue
        folder = folder or VideoFolder(Path(place), (each.video for each in rows))
        path = Path(row.video).expanduser()
        source = str(path) if path.is_absolute() and path.exists() else folder.find(row.video)
        if source is None:
            missing[row.video] = row.place
        else:
            found[row.video] = str(Path(source).resolve())
    if missing:
        name, where = next(iter(missing.items()))
        others = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise _wrong(
            data, where, f"there is no video {name!r} below {place}{others}: name their folder with --videos"
        )
    return found


def _refuse_leak(data: str, rows: list[_Row], sources: dict[str, str]) -> None:
    training = {sources[row.video] for row in rows if row.split == "train"}
    leaked = [row for row in rows if row.split != "train" and sources[row.video] in training]
    if leaked:
        row = leaked[0]
        count = len({sources[each.video] for each in leaked})
        others = f", as {count - 1} other videos are" if count > 1 else ""
        raise _wrong(
            data,
            row.place,
            f"{row.video} is in training and in {row.split}{others}: figures over it would say nothing, so put all "
            "rows of a video into one split",
        )


def _example(data: str, row: _Row, source: str, length: int, begin_s: float, duration_s: float) -> Example:
    """Spans are on the video's own clock, as an archive's are; frames are counted from its first one on."""
    end_s = begin_s + duration_s
    if row.start_s >= end_s or (math.isfinite(row.end_s) and row.end_s > end_s + _SLACK_S):
        until = "its end" if math.isinf(row.end_s) else f"{row.end_s:g} s"
        raise _wrong(
            data,
            row.place,
            f"{row.video} ends at {end_s:.1f} s, and the span is from {row.start_s:g} s to {until}",
        )
    first = min(max(0, round((row.start_s - begin_s) * _RATE)), length - 1)
    span_s = min(row.end_s, end_s) - begin_s
    last = max(first, min(length, round(span_s * _RATE)) - 1)
    return Example(row.video, source, first, last, span_s, row.prompt, row.answer)
