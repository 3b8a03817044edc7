"""Requests for a file and how RFC 9110 has them answered: one row a rule, for whatever serves files.

The file is ``CONTENT``, last modified at ``MODIFIED``. In header values ``{tag}`` stands for its entity tag, and
``{modified}``, ``{before}`` and ``{after}`` for dates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["CONTENT", "MODIFIED", "ROWS", "Row", "filled", "spans_sent"]

CONTENT = bytes(range(100))
MODIFIED = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)
_DATES = {
    "modified": "Sun, 01 Mar 2026 12:30:05 GMT",
    "before": "Sun, 01 Mar 2026 12:30:04 GMT",
    "after": "Sun, 01 Mar 2026 12:30:06 GMT",
}
_PART = re.compile(rb"\r\nContent-Range: bytes ([0-9]+)-([0-9]+)/([0-9]+)\r\n\r\n", re.IGNORECASE)
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """A request: ``spans`` are the bytes [begin, end) that the answer holds, None for no body.

    ``headers`` of several values are sent as a line each.
    """

    name: str
    headers: Mapping[str, str | tuple[str, ...]]
    status: int
    spans: Spans | None = None
    method: str = "GET"


_WHOLE: Spans = ((0, 100),)


def _whole(name: str, **headers: str | tuple[str, ...]) -> Row:
    return Row(name, _named(headers), 200, _WHOLE)


def _part(name: str, *spans: tuple[int, int], **headers: str | tuple[str, ...]) -> Row:
    return Row(name, _named(headers), 206, spans)


def _none(name: str, status: int, **headers: str | tuple[str, ...]) -> Row:
    return Row(name, _named(headers), status)


def _head(name: str, status: int, **headers: str) -> Row:
    return Row(name, _named(headers), status, method="HEAD")


def _named(headers: Mapping[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


_HUGE = "9" * 30
_BEYOND_PYTHON = "9" * 5000
ROWS: tuple[Row, ...] = (
    _whole("nothing is asked"),
    # One range (section 14.1.2).
    _part("from a byte on", (10, 100), Range="bytes=10-"),
    _part("all of it", (0, 100), Range="bytes=0-"),
    _part("first byte", (0, 1), Range="bytes=0-0"),
    _part("last byte", (99, 100), Range="bytes=99-99"),
    _part("between", (10, 20), Range="bytes=10-19"),
    _part("beyond the end is cut", (90, 100), Range="bytes=90-500"),
    _part("a suffix", (93, 100), Range="bytes=-7"),
    _part("a suffix of more than all", (0, 100), Range="bytes=-700"),
    _part("leading zeros", (1, 3), Range="bytes=0001-0002"),
    _part("the unit's case does not count", (0, 2), Range="Bytes=0-1"),
    _part("white space around", (0, 2), Range="  bytes= 0-1 "),
    _none("at the end", 416, Range="bytes=100-"),
    _none("after the end", 416, Range="bytes=500-600"),
    _none("an empty suffix", 416, Range="bytes=-0"),
    # Numbers of any length.
    _part("a huge last byte", (0, 100), Range=f"bytes=0-{_HUGE}"),
    _part("a huge suffix", (0, 100), Range=f"bytes=-{_HUGE}"),
    _none("a huge first byte", 416, Range=f"bytes={_HUGE}-"),
    _none("two huge numbers", 416, Range=f"bytes={_HUGE}-{_HUGE}0"),
    _part("a last byte beyond what Python reads", (5, 100), Range=f"bytes=5-{_BEYOND_PYTHON}"),
    _none("a first byte beyond what Python reads", 416, Range=f"bytes={_BEYOND_PYTHON}-"),
    # What is no range is ignored (section 14.2).
    _whole("the last byte before the first", Range="bytes=20-10"),
    _whole("no numbers", Range="bytes=-"),
    _whole("no range", Range="bytes="),
    _whole("no unit", Range="0-5"),
    _whole("no equals sign", Range="bytes 0-5"),
    _whole("another unit", Range="lines=0-1"),
    _whole("negative numbers", Range="bytes=--5"),
    _whole("three numbers", Range="bytes=1-2-3"),
    _whole("a sign", Range="bytes=+1-2"),
    _whole("hexadecimal digits", Range="bytes=0x1-0x2"),
    _whole("white space within a number", Range="bytes=1 0-20"),
    _whole("nothing at all", Range=""),
    # Several ranges.
    _part("two ranges", (0, 1), (5, 7), Range="bytes=0-0,5-6"),
    _part("in the order asked", (50, 60), (0, 10), Range="bytes=50-59,0-9"),
    _part("with a suffix", (0, 2), (98, 100), Range="bytes=0-1, -2"),
    _part("empty elements of the list", (0, 1), (5, 7), Range="bytes=,0-0, ,5-6,"),
    _part("those beyond the end are left out", (0, 1), Range="bytes=0-0,200-"),
    _none("all beyond the end", 416, Range="bytes=100-,200-300"),
    _part("two that overlap", (0, 10), (5, 15), Range="bytes=0-9,5-14"),
    _whole("three that overlap", Range="bytes=0-,0-,0-"),
    _whole("many small ones", Range="bytes=" + ",".join(f"{2 * i}-{2 * i}" for i in range(40))),
    _whole("one of them is none", Range="bytes=0-0,x"),
    _whole("one of them the wrong way round", Range="bytes=0-0,9-5"),
    # If-None-Match (section 13.1.2): weak comparison.
    _none("the tag is known", 304, If_None_Match="{tag}"),
    _none("the tag is known as a weak one", 304, If_None_Match="W/{tag}"),
    _none("one of several", 304, If_None_Match='"x", {tag}'),
    _none("one of several, weakly, without a space", 304, If_None_Match='"x,y",W/{tag}'),
    _none("any", 304, If_None_Match="*"),
    _whole("another tag", If_None_Match='"x"'),
    _whole("the tag without quotes is none", If_None_Match="x"),
    _whole("the tag inside another", If_None_Match='"x{tag}'),
    _none("before a range", 304, If_None_Match="{tag}", Range="bytes=0-1"),
    _part("another tag and a range", (0, 2), If_None_Match='"x"', Range="bytes=0-1"),
    _head("HEAD with a known tag", 304, If_None_Match="{tag}"),
    # If-Modified-Since (13.1.3).
    _none("not modified since", 304, If_Modified_Since="{modified}"),
    _none("modified before", 304, If_Modified_Since="{after}"),
    _whole("modified since", If_Modified_Since="{before}"),
    _whole("an invalid date", If_Modified_Since="yesterday"),
    _whole("an impossible date", If_Modified_Since="Sun, 99 Mar 2026 99:30:05 GMT"),
    _whole("If-None-Match comes first", If_None_Match='"x"', If_Modified_Since="{modified}"),
    # If-Match (13.1.1): strong comparison.
    _whole("the file that is meant", If_Match="{tag}"),
    _whole("any file", If_Match="*"),
    _whole("one of several files", If_Match='"x", {tag}'),
    _none("another file", 412, If_Match='"x"'),
    _none("weakly the same file", 412, If_Match="W/{tag}"),
    _none("another file and a range", 412, If_Match='"x"', Range="bytes=0-1"),
    _none("If-Match comes before If-None-Match", 412, If_Match='"x"', If_None_Match="{tag}"),
    _none("both hold", 304, If_Match="{tag}", If_None_Match="{tag}"),
    _head("HEAD of another file", 412, If_Match='"x"'),
    # If-Unmodified-Since (13.1.4).
    _whole("unmodified since", If_Unmodified_Since="{modified}"),
    _none("modified after", 412, If_Unmodified_Since="{before}"),
    _whole("If-Match comes first", If_Match="{tag}", If_Unmodified_Since="{before}"),
    _whole("no date", If_Unmodified_Since="x"),
    # If-Range (13.1.5): strong comparison, and without a range it counts for nothing.
    _part("the same tag", (0, 2), If_Range="{tag}", Range="bytes=0-1"),
    _whole("the same tag as a weak one", If_Range="W/{tag}", Range="bytes=0-1"),
    _whole("another tag than before", If_Range='"x"', Range="bytes=0-1"),
    _part("the same date", (0, 2), If_Range="{modified}", Range="bytes=0-1"),
    _whole("a later date is another", If_Range="{after}", Range="bytes=0-1"),
    _whole("an earlier date", If_Range="{before}", Range="bytes=0-1"),
    _whole("neither tag nor date", If_Range="x", Range="bytes=0-1"),
    _whole("an If-Range that no longer matches", If_Range='"x"', Range="bytes=500-"),
    _whole("a tag and no range", If_Range="{tag}"),
    # Lines of one field are one list (5.3): all of a list of tags counts, and of what is to be one value none does.
    _none("a known tag on the second line", 304, If_None_Match=('"x"', "{tag}")),
    _none("a known tag on the first line", 304, If_None_Match=("{tag}", '"x"')),
    _none("a known tag within three lines", 304, If_None_Match=('"x"', '"y", W/{tag}', '"z"')),
    _whole("other tags on two lines", If_None_Match=('"x"', '"y"')),
    _whole("the file that is meant on the second line", If_Match=('"x"', "{tag}")),
    _none("other files on two lines", 412, If_Match=('"x"', '"y"')),
    _whole("ranges on two lines", Range=("bytes=0-1", "bytes=5-6")),
    _whole("the same range on two lines", Range=("bytes=0-1", "bytes=0-1")),
    _whole("two tags for a range", If_Range=("{tag}", "{tag}"), Range="bytes=0-1"),
    _whole("two dates for a range", If_Range=("{modified}", "{modified}"), Range="bytes=0-1"),
    _whole("two dates to be modified since", If_Modified_Since=("{modified}", "{modified}")),
    _whole("two dates to be unmodified since", If_Unmodified_Since=("{before}", "{before}")),
    # HEAD is answered as GET without ranges (14.2).
    _head("HEAD", 200),
    _head("HEAD ignores ranges", 200, Range="bytes=0-1"),
    _head("HEAD ignores ranges beyond the end", 200, Range="bytes=500-"),
)


def filled(row: Row, tag: str) -> list[tuple[str, str]]:
    """The lines of a row's headers for a file with this entity tag."""
    return [
        (name, value.format(tag=tag, **_DATES))
        for name, values in row.headers.items()
        for value in ((values,) if isinstance(values, str) else values)
    ]


def spans_sent(status: int, headers: Mapping[str, str], body: bytes, content: bytes) -> Spans | None:
    """The spans that an answer holds, after checking that its bytes are those of the file. Raises AssertionError."""
    if not body:
        return None
    if status == 200:
        assert body == content
        return ((0, len(content)),)
    assert status == 206
    kind = headers["content-type"]
    if not kind.startswith("multipart/byteranges"):
        found = [(headers["content-range"].encode(), body)]
        found = [(b"\r\nContent-Range: " + head + b"\r\n\r\n", part) for head, part in found]
    else:
        boundary = f"--{kind.partition('boundary=')[2]}".encode()
        first, *parts = (b"\r\n" + body).split(b"\r\n" + boundary)
        assert first.strip() == b""
        assert parts.pop().rstrip() == b"--"
        found = [(part[: part.index(b"\r\n\r\n") + 4], part[part.index(b"\r\n\r\n") + 4 :]) for part in parts]
        assert len(found) > 1
    spans = []
    for head, part in found:
        match = _PART.search(head)
        assert match is not None
        begin, last, size = map(int, match.groups())
        assert part == content[begin : last + 1]
        assert (size, len(part)) == (len(content), last + 1 - begin)
        spans.append((begin, last + 1))
    return tuple(spans)
