"""Pending work of a run: the difference between what the sources list and what the archive has."""

from __future__ import annotations

from dataclasses import dataclass, field

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.tombstones import forgotten_videos
from malmm.pipeline.indexing.background_listing import BackgroundListing
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.sources.listing import SourceFile, which_are_gone

__all__ = ["PendingWork"]

# Few videos have more bytes a second than this. It gives a lower bound for the number of segments of a file.
_MOST_BYTES_A_SECOND = 1_000_000


@dataclass
class PendingWork:
    """New and changed ``files`` in the order of the listing, and counts of files to skip. ``look`` adds to both.

    ``relabelled`` are videos whose metadata in a manifest differs from the archive's: id to metadata. ``given_up`` are
    failures of files that failed permanently before and have not changed. ``forgotten`` is the number of files that the
    archive was told to forget, which are not indexed again. ``left`` is the number of files that a limit
    leaves for another run.
    """

    config: IndexConfig
    recipe: Recipe
    archive: ArchiveReader | None
    listing: BackgroundListing
    files: list[SourceFile] = field(default_factory=list)
    listed: int = 0
    unchanged: int = 0
    left: int = 0
    forgotten: int = 0
    given_up: list[Failure] = field(default_factory=list)
    refused: list[SourceError] = field(default_factory=list)
    relabelled: dict[str, str] = field(default_factory=dict)
    _looked: int = 0

    def __post_init__(self) -> None:
        archive = self.archive
        self._done = archive.completed_videos() if archive else {}
        self._hopeless = archive.given_up() if archive else {}
        self._retried = archive.failed_videos() if archive and self.config.retry else set()
        self._labels: dict[str, str] | None = None
        self._forgotten = forgotten_videos(archive.root) if archive else set()

    def look(self) -> bool:
        """Compare the files listed since the last call with the archive. Returns whether there is a file to index."""
        found = self.listing.found
        while self._looked < len(found):
            each = found[self._looked]
            self._looked += 1
            if isinstance(each, SourceError):
                self.refused.append(each)
            else:
                self.listed += 1
                self._compare(each)
        return bool(self.files)

    @property
    def is_known(self) -> bool:
        """Whether all sources have been listed and compared. Raises the listing's exception, if any."""
        return self.listing.ended and self._looked == len(self.listing.found)

    @property
    def segments_at_least(self) -> int:
        """Lower bound for the number of segments of the files so far, by their sizes."""
        bytes_a_segment = self.recipe.segment_s * _MOST_BYTES_A_SECOND
        return sum(max(1, int(file.size_bytes / bytes_a_segment)) for file in self.files)

    def vanished(self) -> dict[str, str]:
        """Videos of the archive whose file no longer exists, or that are to be left out: id to URI.

        Raises SourceError if a source could not be listed: then a file that is not in the listing may still exist.
        """
        if self.archive is None:
            return {}
        if self.refused:
            raise SourceError(
                f"nothing was pruned, because not all sources could be listed: {self.refused[0]}",
                uri=self.refused[0].uri,
            )
        listed = {found.uri for found in self.listing.found}
        addresses = self.archive.addresses().items()
        left_out = {identity: uri for identity, uri in addresses if uri in self.listing.leave_out}
        return left_out | which_are_gone({identity: uri for identity, uri in addresses if uri not in listed})

    def failures(self) -> list[Failure]:
        """Failures of sources that could not be listed, and of files given up before.

        Of partitions, which all list the same sources, that one has a source's failure to which its address belongs.
        """
        partition = self.config.partition
        refused = [
            Failure(video_id(error.uri), None, error.uri, "list", "source", str(error))
            for error in self.refused
            if partition is None or partition.holds(error.uri)
        ]
        return refused + self.given_up

    def _compare(self, file: SourceFile) -> None:
        identity = video_id(file.uri)
        if identity in self._forgotten:
            self.forgotten += 1
            return
        # Keep stored metadata if this source has none: it may come from another manifest.
        if file.metadata and self._stored_labels().get(identity, file.metadata) != file.metadata:
            self.relabelled[identity] = file.metadata
        known = self._hopeless.get(identity)
        if identity not in self._retried:
            if self._done.get(identity) == (file.fingerprint, self.recipe.recipe_id):
                self.unchanged += 1
                return
            if known is not None and known[0] == file.fingerprint:
                self.given_up.append(known[1])
                return
        if self.config.limit is None or len(self.files) < self.config.limit:
            self.files.append(file)
        else:
            self.left += 1

    def _stored_labels(self) -> dict[str, str]:
        if self._labels is None:
            self._labels = self.archive.metadata() if self.archive else {}
        return self._labels
