"""Conditional and range requests for a file, by RFC 9110 (sections 8.8, 13 and 14). Pure, no files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Representation", "Selected", "Span", "joined_lines", "parse_ranges", "select"]

_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
# One date: a comma follows the name of the day or there is none. Python's parser ignores what comes after a date.
_ONE_DATE = re.compile(r"[A-Za-z]+,?[^,]*")
# More digits than any file size needs. Python refuses to parse more than 4300.
_MOST_DIGITS = 18
_MOST_RANGES = 16
# A date is a strong validator if the file was not changed for this long after it (section 8.8.2.2).
_STRONG_AFTER_S = 1

Span = tuple[int, int]


@dataclass(frozen=True)
class Representation:
    """A file's size and validators: ``tag`` is an entity tag with quotes, ``W/`` before a weak one; ``modified`` is
    UTC.

    Either is None if the store does not report it.
    """

    size_bytes: int
    tag: str | None = None
    modified: datetime | None = None


@dataclass(frozen=True)
class Selected:
    """The response's status (200, 206, 304, 412 or 416) and the spans [begin, end) of bytes to send."""

    status: int
    spans: tuple[Span, ...] = ()


def joined_lines(lines: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields by lower-case name. The values of several lines of one field are one list (section 5.3)."""
    fields: dict[str, list[str]] = {}
    for name, value in lines:
        fields.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values) for name, values in fields.items()}


def select(method: str, headers: Mapping[str, str], held: Representation, now: datetime) -> Selected:
    """Evaluate a GET or HEAD request, in the order of RFC 9110, section 13.2.2.

    ``headers`` are those of ``joined_lines``; ``now`` decides whether a date is a strong validator.
    """
    if _failed(headers, held):
        return Selected(412)
    if _unchanged(headers, held):
        return Selected(304)
    whole = Selected(200, ((0, held.size_bytes),))
    # Ranges are defined only for GET (section 14.2).
    if method != "GET" or not _range_applies(headers.get("if-range"), held, now):
        return whole
    spans = parse_ranges(headers.get("range"), held.size_bytes)
    if spans is None:
        return whole
    return Selected(206, spans) if spans else Selected(416)


def _failed(headers: Mapping[str, str], held: Representation) -> bool:
    """Whether a precondition (If-Match, If-Unmodified-Since) failed."""
    if (wanted := headers.get("if-match")) is not None:
        return not _matches(wanted, held.tag, weakly=False)
    since = _date(headers.get("if-unmodified-since"))
    return since is not None and held.modified is not None and held.modified > since


def _unchanged(headers: Mapping[str, str], held: Representation) -> bool:
    """Whether the client's copy is current (If-None-Match, If-Modified-Since)."""
    if (known := headers.get("if-none-match")) is not None:
        return _matches(known, held.tag, weakly=True)
    since = _date(headers.get("if-modified-since"))
    return since is not None and held.modified is not None and held.modified <= since


def parse_ranges(header: str | None, size_bytes: int) -> tuple[Span, ...] | None:
    """The spans [begin, end) of a ``Range`` header that lie in the file, in the order of the header.

    None if the header is to be ignored: another unit, an invalid range, more than two overlapping ranges or more than
    sixteen. Empty if no range lies in the file.
    """
    unit, separator, given = (header or "").strip(" \t").partition("=")
    if not separator or unit.lower() != "bytes":
        return None
    parts = [part.strip(" \t") for part in given.split(",")]
    matches = [_RANGE.fullmatch(part) for part in parts if part]
    if not 0 < len(matches) <= _MOST_RANGES:
        return None
    spans = []
    for match in matches:
        if match is None or not any(match.groups()):
            return None
        first, last = (_number(digits) for digits in match.groups())
        if first is None:
            if last and not size_bytes:
                return None  # satisfiable, but Content-Range cannot name a byte of an empty file
            begin, end = max(0, size_bytes - (last or 0)), size_bytes
        elif last is not None and last < first:
            return None
        else:
            begin, end = first, size_bytes if last is None else min(size_bytes, last + 1)
        if begin < end:
            spans.append((begin, end))
    if _overlapping(spans) > 2:
        return None
    return tuple(spans)


def _number(digits: str) -> int | None:
    if not digits:
        return None
    plain = digits.lstrip("0") or "0"
    return int(plain) if len(plain) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _overlapping(spans: list[Span]) -> int:
    """Number of spans that overlap another."""
    return sum(
        any(
            begin < other_end and other_begin < end
            for j, (other_begin, other_end) in enumerate(spans)
            if j != i
        )
        for i, (begin, end) in enumerate(spans)
    )


def _range_applies(if_range: str | None, held: Representation, now: datetime) -> bool:
    if if_range is None:
        return True
    given = if_range.strip(" \t")
    if _ENTITY_TAG.fullmatch(given):
        return _matches(given, held.tag, weakly=False)
    since = _date(given)
    if since is None or held.modified is None or held.modified != since:
        return False
    return (now - held.modified).total_seconds() >= _STRONG_AFTER_S


def _matches(header: str, tag: str | None, *, weakly: bool) -> bool:
    """Whether a list of entity tags, or ``*``, matches the file's tag (section 8.8.3.2)."""
    if header.strip(" \t") == "*":
        return True
    held = _ENTITY_TAG.fullmatch(tag) if tag is not None else None
    if held is None or (held[1] and not weakly):
        return False
    return any(opaque == held[2] and (weakly or not weak) for weak, opaque in _ENTITY_TAG.findall(header))


def _date(header: str | None) -> datetime | None:
    """Parse an HTTP date to UTC; None for anything else, which is ignored."""
    given = (header or "").strip(" \t")
    if not _ONE_DATE.fullmatch(given):
        return None
    try:
        found = parsedate_to_datetime(given)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
