"""Display name and media type of a video, by its URI."""

from __future__ import annotations

from urllib.parse import unquote

__all__ = ["media_type", "name_of"]

_TYPES = {
    "mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/mp4", "webm": "video/webm", "mkv": "video/x-matroska",
    "ogv": "video/ogg", "avi": "video/x-msvideo", "ts": "video/mp2t", "mpg": "video/mpeg", "mpeg": "video/mpeg",
}  # fmt: skip


def name_of(uri: str) -> str:
    """The last part of a video's URI; "being indexed" if it is empty."""
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    return (unquote(last) if uri.startswith(("http://", "https://")) else last) or "being indexed"


def media_type(uri: str) -> str:
    """The media type by the file's ending; never one that a browser would show as a page."""
    return _TYPES.get(name_of(uri).rpartition(".")[2].lower(), "application/octet-stream")
