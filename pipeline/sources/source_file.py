"""The record of a listed file."""

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
    """A file to index. ``uri`` is the absolute path of a local file, with links kept, or a URI with its scheme.
    ``size_bytes`` is -1 if unknown. ``fingerprint`` changes when the content changes. ``metadata`` is a JSON object
    from a manifest, or empty."""

    uri: str
    size_bytes: int
    fingerprint: str
    metadata: str = ""


def without_videos(source: str, others: int) -> SourceError:
    """The error for a folder or glob with ``others`` files but no video."""
    if not others:
        return SourceError(f"{source} is empty: it holds no file", uri=source)
    holds = "1 file but not one with a" if others == 1 else f"{others} files but none with a"
    extensions = ", ".join(VIDEO_EXTENSIONS)
    return SourceError(
        f"{source} holds {holds} video extension ({extensions}): name files to take them", uri=source
    )
