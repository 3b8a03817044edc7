"""A file that a source names, as the listing gives it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VIDEO_EXTENSIONS", "SourceFile", "without_videos"]

from malmm.pipeline.schema.errors import SourceError

VIDEO_EXTENSIONS = (
    ".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv",
    ".ogv", ".3gp", ".vob", ".mxf", ".asf", ".h264", ".h265", ".hevc", ".264", ".265", ".ivf", ".divx",
)  # fmt: skip


@dataclass(frozen=True)
class SourceFile:
    """A file to index. ``uri`` is the absolute path of a local file, symbolic links kept, or an address
    with its scheme; ``size_bytes`` is 0 for an empty file and -1 where the server does not say; ``fingerprint`` changes
    when the content does. ``metadata`` is what a manifest says of it, a JSON object, or empty."""

    uri: str
    size_bytes: int
    fingerprint: str
    metadata: str = ""


def without_videos(source: str, others: int) -> SourceError:
    """The error of a folder or glob that holds ``others`` files, none of them with a video's extension."""
    if not others:
        return SourceError(f"{source} is empty: it holds no file", uri=source)
    holds = "1 file but not one with a" if others == 1 else f"{others} files but none with a"
    extensions = ", ".join(VIDEO_EXTENSIONS)
    return SourceError(
        f"{source} holds {holds} video extension ({extensions}): name files to take them", uri=source
    )
