"""Which partitions have listed all sources: videos are pruned from one only after all have.

Each partition has a small file, which its own runs alone write: how often one of them listed all sources, which sources
these were, and what the counts of the others were when it last pruned. A partition may prune when every other one has
listed the same sources at least once more since then. No clock is compared, and a run that was killed counts once it is
run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from malmm.pipeline.archive.small_files import read_file, write_file
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.partition import Partition, all_partitions
from malmm.pipeline.schema.stable_ids import stable_id

__all__ = ["PartitionListings", "sources_key"]


def sources_key(sources: Iterable[str], left_out: Iterable[str]) -> str:
    """Stands for the sources of a run and the videos that it leaves out, in whatever order they are given."""
    return stable_id("sources", *sorted(sources), "left out", *sorted(left_out))


@dataclass(frozen=True)
class _Mark:
    """A partition's file. ``listings`` counts; ``seen`` are the others' counts at its last pruning, by name."""

    sources: str = ""
    listings: int = 0
    seen: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartitionListings:
    """The files of all partitions of the archives at ``address``, as a run of one ``partition`` reads and writes them.

    ``sources`` is the run's ``sources_key``. All methods raise ArchiveError if a file is out of reach or damaged.
    """

    address: str
    partition: Partition
    sources: str

    def record(self) -> None:
        """Record that the run has listed all sources, completely."""
        own = self._mark(self.partition)
        self._write(replace(own, sources=self.sources, listings=own.listings + 1))

    def missing(self) -> list[str]:
        """Names of the partitions that have not listed the same sources since this one last pruned."""
        own = self._mark(self.partition)
        return [
            each.name
            for each in all_partitions(self.partition.number)
            if each != self.partition and not self._has_listed(self._mark(each), own.seen.get(each.name, 0))
        ]

    def close(self) -> None:
        """Record that this partition is pruned: it waits for new listings of the others before it prunes again."""
        others = [each for each in all_partitions(self.partition.number) if each != self.partition]
        seen = {each.name: self._mark(each).listings for each in others}
        self._write(replace(self._mark(self.partition), seen=seen))

    def _has_listed(self, mark: _Mark, seen: int) -> bool:
        return mark.sources == self.sources and mark.listings > seen

    def _place(self, partition: Partition) -> str:
        return f"{self.address}/listings/{partition.name}.json"

    def _mark(self, partition: Partition) -> _Mark:
        place = self._place(partition)
        content = read_file(place)
        if content is None:
            return _Mark()
        try:
            return _Mark(**json.loads(content))
        except (TypeError, ValueError) as error:
            raise ArchiveError(
                f"{place} is damaged: delete it, and the next run writes it anew", uri=place
            ) from error

    def _write(self, mark: _Mark) -> None:
        write_file(self._place(self.partition), json.dumps(asdict(mark)).encode())
