"""Lists of what to leave out: manifests of videos and of spans of them, as ``malmm duplicates`` writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from malmm.pipeline.schema.errors import ConfigError, SourceError
from malmm.pipeline.sources.local import local_path
from malmm.pipeline.sources.manifests import MANIFEST_EXTENSIONS, EmptyManifestError, read_manifest

__all__ = ["LeftOutVideos", "read_left_out"]


@dataclass(frozen=True)
class LeftOutVideos:
    """URIs of ``whole`` videos, and seconds [start_s, end_s) of others by their URI."""

    whole: frozenset[str]
    spans: dict[str, tuple[tuple[float, float], ...]]

    def covers(self, uri: str, start_s: float, end_s: float) -> bool:
        """Whether at least half of these seconds of a video is left out."""
        if uri in self.whole:
            return True
        left_s = sum(
            max(0.0, min(end_s, end) - max(start_s, start)) for start, end in self.spans.get(uri, ())
        )
        return end_s > start_s and left_s >= (end_s - start_s) / 2


def read_left_out(path: str) -> LeftOutVideos:
    """Read a list, in which a row names a video, or with ``start_s`` and ``end_s`` and without ``whole`` a span of it.

    Raises ConfigError for a file that is not a manifest, and for a span that is not two numbers.
    """
    if not path.lower().endswith(MANIFEST_EXTENSIONS):
        raise ConfigError(f"--leave-out {path}: name a file that ends in {', '.join(MANIFEST_EXTENSIONS)}")
    whole: set[str] = set()
    spans: dict[str, list[tuple[float, float]]] = {}
    for row in read_manifest(path if "://" in path else local_path(path)):
        if isinstance(row, EmptyManifestError):
            break
        if isinstance(row, SourceError):
            raise ConfigError(f"--leave-out {path}: {row}") from row
        uri = row.uri if "://" in row.uri else local_path(row.uri)
        said = json.loads(row.metadata) if row.metadata else {}
        if str(said.get("whole", "start_s" not in said)).lower() == "true":
            whole.add(uri)
            continue
        try:
            span = float(said["start_s"]), float(said["end_s"])
        except (KeyError, ValueError, TypeError) as error:
            raise ConfigError(
                f"--leave-out {path}: the row of {row.uri} has no start_s and end_s in seconds"
            ) from error
        spans.setdefault(uri, []).append(span)
    return LeftOutVideos(
        frozenset(whole), {uri: tuple(some) for uri, some in spans.items() if uri not in whole}
    )
