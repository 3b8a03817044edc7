"""What a run has to do: the difference between what the sources list and what the archive has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.sources.listing import SourceFile, is_gone

__all__ = ["Work", "find_work"]


@dataclass(frozen=True)
class Work:
    """New and changed ``files``; videos that ``vanished``, by id; and counts of what needs nothing.

    ``relabelled`` are unchanged videos of which a manifest says something else than the archive: id to metadata.

    ``given_up`` are failures of files that are as they were when they failed for good; ``left`` is how many
    files a limit leaves for another run.
    """

    files: list[SourceFile]
    unchanged: int
    left: int
    given_up: list[Failure]
    vanished: dict[str, str]
    relabelled: dict[str, str]


def find_work(
    config: IndexConfig,
    files: Sequence[SourceFile],
    refused: Sequence[SourceError],
    archive: ArchiveReader | None,
    recipe: Recipe,
) -> Work:
    """Compare the sources with the archive. Raises SourceError for a pruning that the listing does not bear out."""
    done = archive.completed_videos() if archive else {}
    hopeless = archive.given_up() if archive else {}
    retried = archive.failed_videos() if archive and config.retry else set()
    to_do, given_up, unchanged = [], [], 0
    # What a manifest does not say, or another source does not know, is no reason to forget it.
    labels = {video_id(file.uri): file.metadata for file in files if file.metadata}
    stored = archive.metadata() if archive and labels else {}
    relabelled = {
        identity: label
        for identity, label in labels.items()
        if identity in stored and stored[identity] != label
    }
    for file in files:
        identity = video_id(file.uri)
        known = hopeless.get(identity)
        if identity in retried:
            to_do.append(file)
        elif done.get(identity) == (file.fingerprint, recipe.recipe_id):
            unchanged += 1
        elif known is not None and known[0] == file.fingerprint:
            given_up.append(known[1])
        else:
            to_do.append(file)
    limit = len(to_do) if config.limit is None else config.limit
    vanished: dict[str, str] = {}
    if config.prune and archive is not None:
        if refused:
            raise SourceError(
                f"nothing was pruned, because not all sources could be listed: {refused[0]}",
                uri=refused[0].uri,
            )
        listed = {file.uri for file in files}
        vanished = {
            identity: uri
            for identity, uri in archive.addresses().items()
            if uri not in listed and is_gone(uri)
        }
    return Work(to_do[:limit], unchanged, max(0, len(to_do) - limit), given_up, vanished, relabelled)
