"""Conditions of a filter as SQL for one column of a known type. All text of a filter that reaches SQL is written here.

A text becomes a literal with its quotes doubled; numbers and times are parsed and written anew.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from malmm.pipeline.archive.filter_syntax import Condition, Value, refusal
from malmm.pipeline.archive.metadata_types import parse_timestamp
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["IN_WORDS", "comparisons", "literal", "seconds", "sql_condition", "text_literal"]

#: What the types are called; ``seconds`` are doubles that may be written as H:MM:SS.
IN_WORDS = {
    "bool": "true or false",
    "int": "a number",
    "double": "a number",
    "seconds": "a number of seconds",
    "timestamp": "a time",
    "string": "text",
}
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CLOCK = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]{2}(?:\.[0-9]+)?)")
_ORDER = ("<", "<=", ">", ">=", "BETWEEN", "NOT BETWEEN")
_LARGEST_INT = 2**63


def sql_condition(column: str, kind: str, condition: Condition, text: str) -> str:
    """A SQL condition over ``column``, which has type ``kind`` and a name of plain letters.

    ``text`` is the whole filter, for errors. Raises ConfigError for a value or an operator that the type does not take.
    """
    operator = condition.operator
    if operator in ("IS NULL", "IS NOT NULL"):
        return f"{column} {operator}"
    if operator in ("IS TRUE", "IS FALSE"):
        if kind != "bool":
            why = f"{condition.name} is {IN_WORDS[kind]}, so compare it with a value"
            raise refusal(text, condition.place, why)
        return f"{column} = {'true' if operator == 'IS TRUE' else 'false'}"
    if operator.endswith("LIKE"):
        if kind != "string":
            why = f"{condition.name} is {IN_WORDS[kind]}, and LIKE compares texts"
            raise refusal(text, condition.values[0].place, why)
        return f"{column} {operator} {text_literal(condition.values[0].text)}"
    if kind == "bool" and operator in _ORDER:
        raise refusal(text, condition.place, f"{condition.name} is true or false, which have no order")
    all_hold, simple = comparisons(condition)
    said = [_compared(column, kind, sign, value, condition, text) for sign, value in simple]
    return f"({(' AND ' if all_hold else ' OR ').join(said)})"


def comparisons(condition: Condition) -> tuple[bool, list[tuple[str, Value]]]:
    """A comparison, IN or BETWEEN as simple comparisons: whether all have to hold, and (operator, value) of each."""
    operator, values = condition.operator, condition.values
    if operator in ("IN", "NOT IN"):
        return operator == "NOT IN", [("=" if operator == "IN" else "!=", value) for value in values]
    if operator in ("BETWEEN", "NOT BETWEEN"):
        signs = (">=", "<=") if operator == "BETWEEN" else ("<", ">")
        return operator == "BETWEEN", list(zip(signs, values, strict=True))
    return True, [(operator, values[0])]


def literal(kind: str, value: Value, name: str, text: str) -> str:
    """A value as a literal of a type. Raises ConfigError if it is not one."""

    def refuse(example: str) -> ConfigError:
        return refusal(text, value.place, f"{name} is {IN_WORDS[kind]}: write a value such as {example}")

    if kind == "string":
        return text_literal(value.text)
    if kind == "bool":
        if value.text.lower() not in ("true", "false"):
            raise refuse("TRUE")
        return value.text.lower()
    if kind == "timestamp":
        time = parse_timestamp(value.text) if value.kind == "text" else None
        if time is None:
            raise refuse("'2026-03-01' or '2026-03-01 12:30'")
        return _time_literal(time)
    if kind == "seconds":
        return _number_literal(seconds(value, name, text))
    try:
        number = float(value.text) if value.kind != "bool" else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise refuse("12.5")
    if re.fullmatch(r"[-+]?[0-9]+", value.text) and abs(int(value.text)) < _LARGEST_INT:
        return str(int(value.text))
    return _number_literal(number)


def seconds(value: Value, name: str, text: str) -> float:
    """A number of seconds, or a text H:MM:SS or M:SS. Raises ConfigError."""
    found = _CLOCK.fullmatch(value.text)
    if found is not None and value.kind == "text":
        hours, minutes, rest = found.groups()
        return int(hours or 0) * 3600.0 + int(minutes) * 60.0 + float(rest)
    try:
        number = float(value.text) if value.kind != "bool" else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise refusal(text, value.place, f"{name} is a number of seconds: write a value such as 90 or '1:30'")
    return number


def text_literal(text: str) -> str:
    """A text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _compared(column: str, kind: str, sign: str, value: Value, condition: Condition, text: str) -> str:
    if kind == "string" and value.kind == "number" and sign not in ("=", "!="):
        why = f"{condition.name} is text, which a number is neither before nor after: write '{value.text}'"
        raise refusal(text, value.place, why)
    written = literal(kind, value, condition.name, text)
    if kind != "timestamp" or not _DAY.fullmatch(value.text):
        return f"{column} {sign} {written}"
    # A date is a whole day.
    begin = parse_timestamp(value.text)
    if begin is None or begin.year >= datetime.max.year:
        raise refusal(text, value.place, "a date such as '2026-03-01' should stand here")
    end = _time_literal(begin + timedelta(days=1))
    return {
        "=": f"({column} >= {written} AND {column} < {end})",
        "!=": f"({column} < {written} OR {column} >= {end})",
        "<": f"{column} < {written}",
        "<=": f"{column} < {end}",
        ">": f"{column} >= {end}",
        ">=": f"{column} >= {written}",
    }[sign]


def _time_literal(time: datetime) -> str:
    return f"timestamp '{time.replace(tzinfo=None).isoformat(sep=' ', timespec='microseconds')}'"


def _number_literal(number: float) -> str:
    return repr(number)
