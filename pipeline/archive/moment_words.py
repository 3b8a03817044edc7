"""Timed records of typed answers as people read them: in subtitles, and one by one instead of their list."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from malmm.pipeline.schema.tables import MOMENT, RECORD

__all__ = ["is_list_of_moments", "read_as_words", "words_of"]

_UNSUPPORTED = "(time not in memory)"


def is_list_of_moments(row: Mapping[str, Any]) -> bool:
    """Whether a text is a list of timed records, each of which has a row of its own."""
    return bool(row["task"] == RECORD and row["text"].startswith('[{"start_s":'))


def words_of(row: Mapping[str, Any]) -> str:
    """A row's text; that of a timed record in words."""
    return read_as_words(row["text"]) if row["task"] == MOMENT else str(row["text"])


def read_as_words(text: str) -> str:
    """A timed record as ``kind: goal, player: 7``, with a note if memory does not support its times.

    A text that is not a record stays as it is.
    """
    try:
        record = json.loads(text)
    except ValueError:
        return text
    if not isinstance(record, dict):
        return text
    supported = record.pop("supported", True)
    words = ", ".join(_parts(record, ""))
    return words if supported else f"{words} {_UNSUPPORTED}".strip()


def _parts(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _parts(part, f"{path}.{name}" if path else name)
    else:
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"{path}: {said}"
