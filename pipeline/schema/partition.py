"""A partition of a job that several runs share: which videos are its own, and where its archive lies.

``malmm.pipeline.archive.partitions`` tells how the archives of all partitions are kept together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.ids import video_id

__all__ = ["Partition", "all_partitions", "is_partition_name", "partition_index"]

_MOST = 1000
_NAME = re.compile(r"part-\d{4}")


def partition_index(uri: str, number: int) -> int:
    """The partition, from 0 to ``number`` - 1, to which the video at an address belongs.

    It depends on the address alone, by the hash that is the video's id: it is the same on every machine, in every run
    and in whatever order videos are listed.
    """
    return int(video_id(uri), 16) % number


def is_partition_name(folder: str) -> bool:
    """Whether a partition's archive has such a folder name."""
    return bool(_NAME.fullmatch(folder))


@dataclass(frozen=True)
class Partition:
    """One of ``number`` partitions; ``index`` counts from 0. Raises ConfigError for numbers that are out of range."""

    number: int
    index: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= _MOST:
            raise ConfigError(f"--partitions {self.number}: from 1 to {_MOST}")
        if not 0 <= self.index < self.number:
            raise ConfigError(
                f"--partition {self.index}: from 0 to {self.number - 1}, since there are {self.number} partitions"
            )

    @property
    def name(self) -> str:
        """The name of its folder: ``part-0000`` for the first."""
        return f"part-{self.index:04d}"

    def holds(self, uri: str) -> bool:
        """Whether the video at an address belongs to this partition."""
        return partition_index(uri, self.number) == self.index

    def below(self, address: str) -> str:
        """The address of its archive, where ``address`` is that of all partitions."""
        return f"{address.rstrip('/')}/{self.name}"

    def parent_of(self, archive: str) -> str:
        """The address of all partitions, given that of its archive. Raises ConfigError if that is not its archive."""
        parent, _, folder = archive.rstrip("/").rpartition("/")
        if folder != self.name:
            raise ConfigError(f"{archive} is not the archive of partition {self.index}, which is {self.name}")
        return parent or "/"


def all_partitions(number: int) -> list[Partition]:
    """All of so many partitions, in order. Raises ConfigError if there cannot be so many."""
    return [Partition(number, 0), *(Partition(number, index) for index in range(1, number))]
