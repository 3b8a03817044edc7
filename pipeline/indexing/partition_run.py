"""A run of one partition: hold it to what all partitions have in common, and prune once all of them have listed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from malmm.pipeline.archive.location import resolve
from malmm.pipeline.archive.partition_listings import PartitionListings, sources_key
from malmm.pipeline.archive.partitions import fix_partitions, partitioned_at, refuse_partition
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.partition import Partition, all_partitions

__all__ = ["PartitionRun", "partition_run"]


@dataclass
class PartitionRun:
    """What a run does for its ``partition`` of the archives at ``address``. ``kept`` are videos to prune later."""

    address: str
    partition: Partition
    listings: PartitionListings
    kept: dict[str, str] = field(default_factory=dict)

    def fix(self, recipe: Recipe, vector_size: int, *, dry_run: bool) -> None:
        """Fix number and recipe, or check them, and make the archives that are missing. A dry run only checks.

        Raises ConfigError for another number, RecipeMismatch for another recipe, and ArchiveError.
        """
        if dry_run:
            found = partitioned_at(self.address)
            if found is not None:
                found.check(self.partition.number, recipe)
            return
        made = fix_partitions(self.address, self.partition.number, recipe)
        # Whoever makes the catalog makes all archives, so that readers find each of them from the beginning.
        for each in all_partitions(self.partition.number) if made else [self.partition]:
            Archive.create_or_open(each.below(self.address), recipe, vector_size)

    def prunable(self, vanished: dict[str, str]) -> dict[str, str]:
        """Record the run's complete listing. Returns what may be pruned now; the rest is ``kept`` for ``finish``."""
        self.listings.record()
        if self.listings.missing():
            self.kept = vanished
            return {}
        # Before it prunes: a run that is killed on the way prunes when all have listed again.
        self.listings.close()
        return vanished

    def finish(self, archive: Archive | None, report: IndexReport) -> None:
        """At the end of the run, prune what was kept if the others have listed meanwhile; else report it."""
        report.partition = self.partition
        report.not_listed = self.listings.missing() if self.kept else []
        if report.not_listed or report.interrupted:
            report.videos_kept = len(self.kept)
        elif self.kept and archive is not None:
            self.listings.close()
            with archive.held():
                for identity in self.kept:
                    archive.remove_video(identity)
            report.videos_pruned += len(self.kept)


def partition_run(config: IndexConfig, left_out: Collection[str]) -> PartitionRun | None:
    """What a run has to do for its partition; None for a run without.

    Raises ConfigError if the archives have another number of partitions, or if a run without writes to one of them.
    """
    if config.partition is None:
        refuse_partition(resolve(config.archive))
        return None
    address = config.partition.parent_of(resolve(config.archive))
    found = partitioned_at(address)
    if found is not None:
        found.check(config.partition.number)
    listings = PartitionListings(address, config.partition, sources_key(config.sources, left_out))
    return PartitionRun(address, config.partition, listings)
