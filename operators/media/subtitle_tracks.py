"""Read the subtitle tracks of a video file: texts only, as pictures of texts would have to be recognised first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Discard

from malmm.operators.media.container import open_video
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.files import MediaFile
from malmm.pipeline.schema.given_texts import GivenText

__all__ = ["SubtitleTrack", "read_tracks"]

_OVERRIDE = re.compile(r"\{[^{}]*\}")
_BREAK = re.compile(r"\\[Nnh]")


@dataclass(frozen=True)
class SubtitleTrack:
    """A track of texts, on the video's own clock. ``index`` is the stream's, ``language`` its code or empty."""

    index: int
    language: str
    texts: tuple[GivenText, ...]
    problems: tuple[str, ...] = ()


def read_tracks(uri: str, cache: FileCache | None = None) -> list[SubtitleTrack]:
    """The subtitle tracks of a video that hold text. Reads the whole file if there is one, else its header alone.

    Raises MediaError with the kinds of ``malmm.operators.media.container.open_video``.
    """
    with open_video(MediaFile(uri, cache)) as video:
        container = video.container
        streams = [stream for stream in container.streams.subtitles if _is_text(stream)]
        if not streams:
            return []
        for stream in container.streams:
            stream.discard = Discard.default if stream in streams else Discard.all
        # A stream's attributes are gone with its container.
        languages = {stream.index: _language(stream) for stream in streams}
        found: dict[int, list[GivenText]] = {index: [] for index in languages}
        broken: dict[int, int] = dict.fromkeys(found, 0)
        try:
            for packet in container.demux(streams):
                text = _text_of(packet, broken)
                if text is not None:
                    found[packet.stream_index].append(text)
        except FFmpegError as error:
            cut = f"{uri} ends in the middle of its subtitles: {error.strerror or error}"
        else:
            cut = ""
    return [
        SubtitleTrack(index, language, tuple(found[index]), _problems(uri, index, broken[index], cut))
        for index, language in languages.items()
    ]


def _is_text(stream: Any) -> bool:
    try:
        return bool(av.Codec(stream.codec_context.name, "r").text_sub)
    except (AttributeError, ValueError):
        # A stream in a codec that FFmpeg has no decoder for.
        return False


def _text_of(packet: Any, broken: dict[int, int]) -> GivenText | None:
    if packet.pts is None or not packet.size or packet.time_base is None:
        return None
    try:
        events = packet.decode()
        said = [_OVERRIDE.sub("", _line(event)) for event in events]
    except FFmpegError:
        broken[packet.stream_index] += 1
        return None
    words = " ".join(_BREAK.sub(" ", " ".join(said)).split())
    if not words:
        return None
    start_s = float(packet.pts * packet.time_base)
    length_s = float((packet.duration or 0) * packet.time_base)
    if length_s <= 0:
        broken[packet.stream_index] += 1
        return None
    return GivenText(start_s, start_s + length_s, words)


def _line(event: Any) -> str:
    dialogue = getattr(event, "dialogue", b"")
    return dialogue.decode("utf-8", errors="replace") if isinstance(dialogue, bytes) else str(dialogue)


def _language(stream: Any) -> str:
    named = stream.metadata.get("language", "") or ""
    return "" if named in ("und", "zxx", "mul") else named


def _problems(uri: str, index: int, broken: int, cut: str) -> tuple[str, ...]:
    lost = f"{uri}, subtitle track {index}: {broken} cues cannot be read or have no length" if broken else ""
    return tuple(each for each in (lost, cut) if each)
