"""From a plain schema to the regular expression of its answers, and their greatest length.

Answers are written as JSON without spaces, properties in the schema's order, letters as they are (no ``\\u`` escapes),
and numbers with a fixed number of decimals. As the schemas have no recursion, one regular expression says it all, which
a model follows without a choice between lexemes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from malmm.model.typed.digits import between
from malmm.model.typed.schema import SchemaError

__all__ = ["LONGEST_BYTES", "USUAL_RECORDS", "Grammar", "record_of"]

#: The longest answer that a schema may allow, in bytes. A token is at least one byte.
LONGEST_BYTES = 4096
#: Most timed records of one answer, where the schema is that of one record.
USUAL_RECORDS = 8
_LARGEST_PATTERN = 200_000
_TIME_DECIMALS = 1
_FINEST = 9
# A letter has at most four bytes, and what is escaped here two.
_LETTER, _LETTER_BYTES = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\nt])', 4
# Rust's regular expressions read `\<` as the begin of a word, so only what needs it is escaped.
_MARKS = re.compile(r"[\\.+*?()|\[\]{}^$#&~/-]")


@dataclass(frozen=True)
class Grammar:
    """What answers match: a ``pattern``, their greatest length, and the ``letters`` that only one answer has there.

    ``letters`` has to be among what a vocabulary can write, or no answer could be finished.
    """

    pattern: str
    longest_bytes: int
    letters: frozenset[str]

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Grammar:
        """The grammar of a plain schema (``plain_schema``). Raises SchemaError if its answers may be too long."""
        builder = _Builder()
        pattern, longest = builder.part(schema, "#")
        return builder.checked(pattern, longest)

    @classmethod
    def of_spans(cls, schema: Mapping[str, Any], start_s: float, end_s: float) -> Grammar:
        """The grammar of a list of timed records: ``start_s``, ``end_s``, then the record's own properties.

        ``schema`` is as for ``record_of``. Times lie from ``start_s`` to ``end_s``, with one decimal. Raises
        SchemaError.
        """
        record, most = record_of(schema)
        low, high = Decimal(repr(float(start_s))), Decimal(repr(float(end_s)))
        decimals = next(
            (count for count in range(_TIME_DECIMALS, _FINEST + 1) if between(low, high, count)), None
        )
        if decimals is None:
            raise SchemaError(f"no time can be written from {start_s!r} s to {end_s!r} s")
        builder = _Builder()
        time = between(low, high, decimals), _number_bytes(low, high, decimals)
        times = {"start_s": time, "end_s": time}
        one = builder.record(record, "#", times)
        return builder.checked(*builder.items(one, 0, most))


def record_of(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """The record's schema, and most records of one answer, from a plain schema: of a record, or of a list of them.

    Raises SchemaError for another schema, and for a record with times of its own.
    """
    record, most = schema, USUAL_RECORDS
    if schema.get("type") == "array":
        record, most = schema["items"], schema["maxItems"]
        if schema["minItems"]:
            raise SchemaError("#: minItems: a list of timed records may be empty, leave it out")
    if record.get("type") != "object":
        raise SchemaError("#: timed records (spans) need the schema of an object, or of an array of objects")
    own = sorted({"start_s", "end_s", "supported"} & set(record["properties"]))
    if own:
        raise SchemaError(f"#/properties/{own[0]}: a timed record (spans) has {own[0]} of itself")
    return record, most


class _Builder:
    """Builds (pattern, greatest length in bytes) of each part, and collects the fixed letters."""

    def __init__(self) -> None:
        self._letters: set[str] = set()

    def checked(self, pattern: str, longest: int) -> Grammar:
        if longest > LONGEST_BYTES:
            raise SchemaError(
                f"an answer could have {longest} bytes, and {LONGEST_BYTES} are the most: lower maxLength and maxItems "
                "(a letter counts four bytes)"
            )
        if len(pattern) > _LARGEST_PATTERN:
            raise SchemaError("the schema allows too many combinations: make more properties required")
        return Grammar(pattern, longest, frozenset(self._letters))

    def part(self, schema: Mapping[str, Any], at: str) -> tuple[str, int]:
        if "enum" in schema:
            # Longer ones first changes nothing: all are tried at once.
            return self._either([self._fixed(value) for value in schema["enum"]])
        if "anyOf" in schema:
            return self._either([self.part(each, f"{at}/anyOf") for each in schema["anyOf"]])
        kind = schema["type"]
        if kind == "object":
            return self.record(schema, at)
        if kind == "array":
            item = self.part(schema["items"], f"{at}/items")
            return self.items(item, schema["minItems"], schema["maxItems"])
        if kind == "string":
            low, high = schema["minLength"], schema["maxLength"]
            self._letters.update('"a')
            return f'"{_LETTER}{{{low},{high}}}"', 2 + _LETTER_BYTES * high
        if kind in ("integer", "number"):
            return self._number(schema, at)
        return self._either(
            [self._fixed(value) for value in ((True, False) if kind == "boolean" else (None,))]
        )

    def record(
        self, schema: Mapping[str, Any], at: str, before: Mapping[str, tuple[str, int]] | None = None
    ) -> tuple[str, int]:
        """An object, with parts ``before`` its own properties that are always there."""
        parts = list((before or {}).items())
        required = {*(before or ()), *schema["required"]}
        parts += [
            (name, self.part(part, f"{at}/properties/{name}")) for name, part in schema["properties"].items()
        ]
        begun, first, longest = "", "", 2
        # From the end: what may follow after something (with commas), and what may be if nothing was before.
        for name, (pattern, size) in reversed(parts):
            key, key_bytes = self._fixed(name)
            here = f"{key}:{pattern}"
            if name in required:
                first, begun = here + begun, f",{here}{begun}"
            else:
                first, begun = f"(?:{here}{begun}|{first})", f"(?:,{here})?{begun}"
            longest += key_bytes + 2 + size
            if len(first) > _LARGEST_PATTERN:
                break
        self._letters.update("{}:,")
        return rf"\{{{first}\}}", longest

    def items(self, item: tuple[str, int], low: int, high: int) -> tuple[str, int]:
        """A list of ``low`` to ``high`` items."""
        pattern, size = item
        self._letters.update("[],")
        if high == 0:
            return r"\[\]", 2
        some = f"{pattern}(?:,{pattern}){{{max(0, low - 1)},{high - 1}}}"
        return rf"\[(?:{some}){'' if low else '?'}\]", 2 + high * (size + 1)

    def _number(self, schema: Mapping[str, Any], at: str) -> tuple[str, int]:
        low, high = (Decimal(repr(schema[name])) for name in ("minimum", "maximum"))
        wanted = range(1) if schema["type"] == "integer" else range(_decimals(low, high), _FINEST + 1)
        for decimals in wanted:
            if pattern := between(low, high, decimals):
                self._letters.update("0123456789" + ("-" if low < 0 else "") + ("." if decimals else ""))
                return pattern, _number_bytes(low, high, decimals)
        raise SchemaError(f"{at}: no number of {_FINEST} decimals lies from {low} to {high}")

    def _fixed(self, value: object) -> tuple[str, int]:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        self._letters.update(text)
        return _MARKS.sub(lambda found: "\\" + found.group(), text), len(text.encode())

    @staticmethod
    def _either(parts: list[tuple[str, int]]) -> tuple[str, int]:
        return f"(?:{'|'.join(pattern for pattern, _ in parts)})", max(size for _, size in parts)


def _decimals(low: Decimal, high: Decimal) -> int:
    """Two, or as many more as tell a hundred values between the bounds apart."""
    span = float(high - low)
    return 2 if span >= 1 or span <= 0 else min(_FINEST, 2 + math.ceil(-math.log10(span)))


def _number_bytes(low: Decimal, high: Decimal, decimals: int) -> int:
    whole = max(len(str(int(abs(bound)))) for bound in (low, high))
    return whole + (decimals + 1 if decimals else 0) + (1 if low < 0 else 0)
