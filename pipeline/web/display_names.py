"""What a video is called on a page, and what a browser is told that it is."""

from __future__ import annotations

from urllib.parse import unquote

__all__ = ["media_type", "name_of"]

_TYPES = {
    "mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/mp4", "webm": "video/webm", "mkv": "video/x-matroska",
    "ogv": "video/ogg", "avi": "video/x-msvideo", "ts": "video/mp2t", "mpg": "video/mpeg", "mpeg": "video/mpeg",
}  # fmt: skip


def name_of(uri: str) -> str:
    """The last part of a video's address; of one that is not known yet, that it is being indexed."""
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    return (unquote(last) if uri.startswith(("http://", "https://")) else last) or "being indexed"


def media_type(uri: str) -> str:
    """A video type by the file's ending, and never anything that a browser would show as a page."""
    return _TYPES.get(name_of(uri).rpartition(".")[2].lower(), "application/octet-stream")
