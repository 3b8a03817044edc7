"""Types of metadata: which of five types the values of manifests have, and how they are converted to it.

A manifest in CSV says everything as text, so a text that reads as a number, a time or a truth value counts as one. The
types are ``bool``, ``int``, ``double``, ``timestamp`` and ``string``. Integers and doubles together are doubles; any
other two types together are strings, of which ``Kinds.note`` says why.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

__all__ = ["ARROW_TYPES", "Kinds", "converted", "kind_of", "parse_metadata", "parse_timestamp"]

#: The Arrow type of each type of metadata.
ARROW_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "double": pa.float64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
}

_IN_WORDS = {
    "bool": "true or false",
    "int": "a number",
    "double": "a number",
    "timestamp": "a time",
    "string": "text",
}
# Without leading zeros: 007 is a name.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_DOUBLE = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?|-?\.[0-9]+")
# Manifests in Parquet and JSON lines may have floats that JSON cannot say; they are stored as their names.
_NOT_FINITE = {"nan", "inf", "-inf"}
_TIMESTAMP = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_LARGEST_INT = 2**63


@dataclass
class Kinds:
    """The types that the values of one metadata key have, each with an example."""

    examples: dict[str, Any] = field(default_factory=dict)

    def add(self, value: Any) -> None:
        """Count a value."""
        self.examples.setdefault(kind_of(value), value)

    @property
    def joined(self) -> str:
        """The type that holds all values."""
        kinds = set(self.examples)
        if len(kinds) == 1:
            return next(iter(kinds))
        return "double" if kinds == {"int", "double"} else "string"

    @property
    def note(self) -> str:
        """Why the type is ``string`` although not all values are text; else empty."""
        if self.joined != "string" or set(self.examples) == {"string"}:
            return ""
        return f"text, because its values are of different types: {', '.join(self._said())}"

    def note_beside(self, kind: str) -> str:
        """Why a column of another type, which holds what was there before, became ``string``."""
        said = [*self._said(), f"others were {_IN_WORDS[kind]}"]
        return f"text, because its values are of different types: {', '.join(said)}"

    def _said(self) -> list[str]:
        return [f"{_shown(value)} is {_IN_WORDS[kind]}" for kind, value in sorted(self.examples.items())]


def parse_metadata(text: str) -> dict[str, Any]:
    """The values of a row's JSON object that are not null; none for an empty text, or JSON that is not an object."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if value is not None}


def kind_of(value: Any) -> str:
    """The type of a value of a JSON object that is not null."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -_LARGEST_INT <= value < _LARGEST_INT else "string"
    if isinstance(value, float):
        return "double"
    if not isinstance(value, str):
        return "string"
    if value.lower() in ("true", "false"):
        return "bool"
    if _INT.fullmatch(value):
        return "int"
    if _DOUBLE.fullmatch(value) or value in _NOT_FINITE:
        return "double"
    return "timestamp" if parse_timestamp(value) is not None else "string"


def parse_timestamp(text: str) -> datetime | None:
    """A date, or a date and time, in UTC unless it names an offset; None for anything else."""
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def converted(values: Iterable[Any], kind: str) -> pa.Array:
    """Values, None where there is none, as an array of a type that holds them all. Others become null."""
    return pa.array([_converted(value, kind) for value in values], ARROW_TYPES[kind])


def _converted(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    found = kind_of(value)
    if found != kind and (found, kind) != ("int", "double"):
        return None
    if kind == "bool":
        return value if isinstance(value, bool) else value.lower() == "true"
    if kind == "timestamp":
        return parse_timestamp(value)
    if kind == "int":
        return int(value)
    number = float(value)
    # NaN is how Parquet says that there is no value.
    return None if math.isnan(number) else number


def _shown(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f"{shown[:39]}…"
