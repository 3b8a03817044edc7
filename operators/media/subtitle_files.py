"""Read subtitle files: SubRip, WebVTT, SubStation Alpha and TTML, in any encoding, broken ones as far as they go."""

from __future__ import annotations

import codecs
import html
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.parsers.expat import ExpatError

from malmm.operators.media.files import open_bytes
from malmm.pipeline.schema.errors import ConfigError, MediaError
from malmm.pipeline.schema.given_texts import GivenText

__all__ = ["FORMATS", "MOST_BYTES", "Subtitles", "decoded", "parse_subtitles", "read_subtitles"]

FORMATS = {"srt": "srt", "vtt": "vtt", "ass": "ass", "ssa": "ssa", "ttml": "ttml", "dfxp": "ttml"}
"""Formats by the ending of a file's name."""
MOST_BYTES = 1 << 25
"""Larger files are not subtitles: a day of speech has two megabytes."""

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# Code pages of Latin scripts cannot be told apart by their bytes; most files of these are in the western one.
_LATIN = re.compile(r"cp125[0-9]|iso8859_.*|latin.*|mac_.*")
_NOT_LATIN = frozenset(
    {"cp1251", "cp1253", "cp1255", "cp1256", "iso8859_5", "iso8859_7", "iso8859_8", "iso8859_6"}
)
_TAG = re.compile(r"<[^<>]*>")
_VOICE = re.compile(r"<v(?:\.[^ \t>]*)?[ \t]+([^>]+)>")
_OVERRIDE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Subtitles:
    """What a file holds: its texts, on a clock that begins at 0, and a sentence for each cue that was left out."""

    texts: tuple[GivenText, ...]
    problems: tuple[str, ...] = ()


def read_subtitles(uri: str, encoding: str = "", length_s: float = math.inf) -> Subtitles:
    """Read a subtitle file by the ending of its name. ``encoding`` is what its bytes are in if they are not UTF-8.

    ``length_s`` is the video's length: cues that begin later are left out, with a sentence each.

    Raises MediaError of kind ``missing``, ``denied``, ``unreachable``, ``too_large`` or ``decode_error``, and
    ConfigError for an unknown encoding.
    """
    format = FORMATS[uri.rpartition(".")[2].lower()]
    with open_bytes(uri) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise MediaError(
            f"{uri} is larger than {MOST_BYTES >> 20} MiB: it is no subtitle file", uri=uri, kind="too_large"
        )
    return parse_subtitles(decoded(data, uri, encoding), format, uri, length_s)


def decoded(data: bytes, uri: str, encoding: str = "") -> str:
    """The text of a file: by its byte order mark, as UTF-8, in ``encoding``, or in the one that fits its bytes best.

    Raises ConfigError for an unknown encoding, and MediaError of kind ``decode_error``.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data.decode(name, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if encoding:
        try:
            return data.decode(encoding, errors="replace")
        except LookupError as error:
            raise ConfigError(
                f"--encoding {encoding!r} is unknown: write a name such as cp1250, shift_jis or gb18030"
            ) from error
    # Loads tables of languages, which files in UTF-8 need not wait for.
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise MediaError(
            f"{uri} is in no known encoding: convert it to UTF-8, or name its encoding",
            uri=uri,
            kind="decode_error",
        )
    found = codecs.lookup(best.encoding).name.replace("-", "_")
    if _LATIN.fullmatch(found) and found not in _NOT_LATIN:
        found = "cp1252"
    return data.decode(found, errors="replace")


def parse_subtitles(text: str, format: str, uri: str, length_s: float = math.inf) -> Subtitles:
    """The cues of a file's text. Raises MediaError of kind ``decode_error`` if it has none.

    Cues without words are left out without a sentence. A cue that ends before it begins or lies after the video's end,
    and a line that should be a time and is not, cost a sentence each, with the line's number.
    """
    import pysubs2

    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    options: dict[str, Any] = {"keep_unknown_html_tags": True} if format == "vtt" else {}
    try:
        events = list(pysubs2.SSAFile.from_string("\n".join(lines), format_=format, **options))
    except (
        pysubs2.Pysubs2Error,
        ExpatError,
        SyntaxError,
        ValueError,
        KeyError,
        NotImplementedError,
    ) as error:
        # ElementTree's errors are syntax errors; times in frames are not implemented.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(
            f"{uri} is no {format} file that can be read: {reason[:200]}", uri=uri, kind="decode_error"
        ) from error
    places, problems = _time_lines(lines, format, uri)
    texts = []
    for number, event in enumerate(events):
        where = f"line {places[number]}" if len(places) == len(events) else f"cue {number + 1}"
        if event.is_comment or event.is_drawing:
            continue
        said, speaker = _words(event, format)
        if not said:
            continue
        if event.end <= event.start:
            problems.append((number, f"{uri}, {where}: the cue ends before it begins, and is left out"))
            continue
        begin_s, end_s = event.start / 1000, event.end / 1000
        if begin_s >= length_s:
            late = f"the cue begins at {begin_s:.1f} s of a video of {length_s:.1f} s, and is left out"
            problems.append((number, f"{uri}, {where}: {late}"))
            continue
        texts.append(GivenText(begin_s, min(end_s, length_s), said, speaker))
    if not texts and not problems:
        raise MediaError(
            f"{uri} holds no subtitle: no line in it is a {format} cue", uri=uri, kind="decode_error"
        )
    told = tuple(sentence for _, sentence in sorted(problems, key=lambda each: each[0]))
    return Subtitles(tuple(texts), told)


def _words(event: Any, format: str) -> tuple[str, str]:
    """A cue's words on one line, and its speaker."""
    raw, speaker = event.text, event.name or ""
    if format == "vtt":
        # After an empty line come notes, and the names of cues.
        raw = raw.split(r"\N\N")[0]
        if voice := _VOICE.search(raw):
            speaker = html.unescape(voice[1])
    plain = _OVERRIDE.sub("", raw).replace(r"\h", " ")
    plain = re.sub(r"\\[Nn]", "\n", plain)
    if format in ("vtt", "srt"):
        plain = html.unescape(_TAG.sub("", plain))
    # What should have been the time of the next cue is not said.
    spoken = [line for line in plain.split("\n") if "-->" not in line]
    return " ".join(" ".join(spoken).split()), " ".join(speaker.split())


def _time_lines(lines: Sequence[str], format: str, uri: str) -> tuple[list[int], list[tuple[int, str]]]:
    """Numbers of the lines that begin cues, and a sentence for each that was meant to and does not."""
    if format in ("ass", "ssa"):
        return [
            number for number, line in enumerate(lines, 1) if line.startswith(("Dialogue:", "Comment:"))
        ], []
    if format not in ("srt", "vtt"):
        return [], []
    places: list[int] = []
    problems: list[tuple[int, str]] = []
    for number, is_time in _times(lines, format):
        if is_time:
            places.append(number)
        else:
            problems.append(
                (len(places), f"{uri}, line {number}: it is no pair of times, and its cue is left out")
            )
    return places, problems


def _times(lines: Sequence[str], format: str) -> Iterator[tuple[int, bool]]:
    from pysubs2.formats.subrip import SubripFormat
    from pysubs2.formats.webvtt import WebVTTFormat

    stamp = (WebVTTFormat if format == "vtt" else SubripFormat).TIMESTAMP
    for number, line in enumerate(lines, 1):
        if len(stamp.findall(line)) == 2:
            yield number, True
        elif "-->" in line:
            yield number, False
