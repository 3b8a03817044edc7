"""Several archives read as one: the same methods as those of one archive, over all of their rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NoReturn, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.catalog import entries_of, names_several
from malmm.pipeline.archive.members import LeftOut, Member, Members, open_members
from malmm.pipeline.archive.memories import SlotReader
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError, ConfigError

__all__ = ["JoinedArchive", "JoinedSlots", "JoinedTables", "members_of", "open_archives", "with_same"]

R = TypeVar("R")


class JoinedTables(TableReader):
    """Reads rows of the same table of several archives. Rows of a video come from the archive that it belongs to."""

    def __init__(self, members: Members) -> None:
        super().__init__(" + ".join(member.name for member in members.all))
        self._members = members

    def table(self, name: str) -> NoReturn:
        """Raises ArchiveError: several archives have no common table."""
        raise ArchiveError(f"{self.uri} are several archives: open the table {name!r} of one", uri=self.uri)

    def dataset(self, name: str) -> NoReturn:
        """Raises ArchiveError: several archives have no common table."""
        self.table(name)

    def version(self, name: str) -> object:
        """Identifies a state of the tables: it changes with every commit."""
        return tuple(
            self._members.each(lambda member: (member.reader.uri, member.reader.tables.version(name)))
        )

    def rows(
        self, name: str, filters: Iterable[str] | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """Rows that match the filters, archive by archive; all rows without ``filters``."""
        parts = None if filters is None else list(filters)

        def of(member: Member) -> pa.Table:
            if not member.elsewhere:
                return member.reader.tables.rows(name, parts, columns)
            wanted = columns if columns is None else list(dict.fromkeys([*columns, "video_id"]))
            rows = _owned(member, member.reader.tables.rows(name, parts, wanted))
            return rows if columns is None else rows.select(columns)

        # Archives made by different releases may lack columns.
        return pa.concat_tables(self._members.each(of), promote_options="default")

    def completed_among(self, segment_ids: Iterable[str]) -> set[str]:
        """Return which of the given segments are done."""
        return set(self._members.homes(segment_ids))

    def batches(
        self, name: str, columns: list[str], filters: Iterable[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Columns of the rows that match the filters, a batch at a time."""
        parts = None if filters is None else list(filters)
        wanted = list(dict.fromkeys([*columns, "video_id"]))
        for member in self._members.now():
            if not member.elsewhere:
                yield from member.reader.tables.batches(name, columns, parts)
                continue
            for batch in member.reader.tables.batches(name, wanted, parts):
                yield from _owned(member, pa.Table.from_batches([batch])).select(columns).to_batches()


class JoinedSlots(SlotReader):
    """Reads the slots of several archives."""

    def __init__(self, tables: TableReader, recipe: Recipe, members: Members) -> None:
        super().__init__(tables, recipe)
        self._members = members

    def slot_count(self, video_ids: Iterable[str] | None = None) -> int:
        """Number of slots, of the given videos or in all."""
        ids = None if video_ids is None else list(video_ids)

        def of(member: Member) -> int:
            if ids is not None:
                return member.reader.slots.slot_count(member.owned(ids))
            return member.reader.slots.slot_count() - member.reader.slots.slot_count(member.elsewhere)

        return sum(self._members.each(of))

    def memory_tokens(self, segment_ids: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """See ``SlotReader.memory_tokens``."""
        ids = list(dict.fromkeys(segment_ids))
        homes = self._members.homes(ids)
        for member, part in groupby((each for each in ids if each in homes), key=lambda each: homes[each]):
            yield from member.reader.slots.memory_tokens(part)

    def sampled_vectors(self, count: int) -> np.ndarray:
        """Retrieval vectors float32 [B, Q, V] of ``count`` slots at most, from each archive by its share of slots."""
        members = self._members.now()
        sizes = dict(
            zip(members, self._members.each(lambda m: m.reader.slots.slot_count(), members), strict=True)
        )
        total = max(1, sum(sizes.values()))
        parts = self._members.each(
            lambda member: member.reader.slots.sampled_vectors(math.ceil(count * sizes[member] / total)),
            [member for member, size in sizes.items() if size] or members[:1],
        )
        return np.concatenate([part for part in parts if len(part)] or parts[:1])[:count]

    def similarities(
        self, segment_ids: Iterable[str], query: np.ndarray, columns: Sequence[str], *, limit: int
    ) -> list[tuple[dict[str, Any], float]]:
        """See ``SlotReader.similarities``."""
        by_member = _grouped(self._members.homes(segment_ids))
        parts = self._members.each(
            lambda member: member.reader.slots.similarities(by_member[member], query, columns, limit=limit),
            list(by_member),
        )
        found = [each for part in parts for each in part]
        return sorted(found, key=lambda each: -each[1])[:limit]

    def slot_tokens(self, slots: Sequence[tuple[str, int]]) -> list[np.ndarray]:
        """See ``SlotReader.slot_tokens``."""
        found: dict[tuple[str, int], np.ndarray] = {}
        for read in self._at_home(slots, lambda member, own: member.reader.slots.slot_tokens(own)):
            found.update(zip(*read, strict=True))
        if missing := [segment for segment, slot in slots if (segment, slot) not in found]:
            raise ArchiveError(
                f"the archives have changed meanwhile: segment {missing[0]} is gone", uri=missing[0]
            )
        return [found[slot] for slot in slots]

    def thumbnails(self, slots: Sequence[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
        """See ``SlotReader.thumbnails``."""
        found: dict[tuple[str, int], bytes] = {}
        for _, read in self._at_home(slots, lambda member, own: member.reader.slots.thumbnails(own)):
            found.update(read)
        return found

    def vectors_at(self, video_id: str, at_s: float) -> np.ndarray | None:
        """See ``SlotReader.vectors_at``. Raises ConfigError also for a video that is in none of the archives."""
        home = self._members.owners([video_id]).get(video_id)
        if home is None:
            raise ConfigError(f"the archives hold no video {video_id!r}: `malmm show` lists what they hold")
        return home.reader.slots.vectors_at(video_id, at_s)

    def _at_home(
        self, slots: Sequence[tuple[str, int]], read: Callable[[Member, list[tuple[str, int]]], R]
    ) -> list[tuple[list[tuple[str, int]], R]]:
        """Read slots (segment_id, slot) from their archives. Yields each archive's slots and the result."""
        homes = self._members.homes(segment for segment, _ in slots)
        by_member: defaultdict[Member, list[tuple[str, int]]] = defaultdict(list)
        for segment, slot in slots:
            if segment in homes:
                by_member[homes[segment]].append((segment, slot))
        return self._members.each(
            lambda member: (by_member[member], read(member, by_member[member])), list(by_member)
        )


class JoinedArchive(ArchiveReader):
    """Reads several archives as one. A video that is in several of them is read from the first that has all of it.

    ``recipe`` is the first archive's. An archive that cannot be reached is left out.
    """

    def __init__(self, members: Members) -> None:
        first = members.all[0].reader
        tables = JoinedTables(members)
        super().__init__(tables.uri, first.recipe, tables.uri)
        self.members, self.tables = members, tables

    @property
    def uri(self) -> str:
        """The addresses of all tables. Equal as long as no recipe is replaced and the same archives take part."""
        return " + ".join(member.reader.uri for member in self.members.all if member.problem is None)

    @property
    def archives(self) -> list[ArchiveReader]:
        """The archives that take part."""
        return [member.reader for member in self.members.now()]

    @property
    def slots(self) -> SlotReader:
        """The archives' stored memory."""
        return JoinedSlots(self.tables, self._recipe, self.members)

    def home_of(self, video_id: str) -> ArchiveReader:
        """The archive that a video is read from. Raises ConfigError for a video that is in none."""
        home = self.members.owners([video_id]).get(video_id)
        if home is None:
            raise ConfigError(f"the archives hold no video {video_id!r}: `malmm show` lists what they hold")
        return home.reader

    def names_of(self, video_ids: Iterable[str]) -> dict[str, str]:
        """The name of the archive that each video is read from."""
        return {video: member.name for video, member in self.members.owners(video_ids).items()}

    def schema(self, name: str) -> pa.Schema:
        """All columns that a table has in any of the archives."""
        return pa.unify_schemas(self.members.each(lambda member: member.reader.schema(name)))

    def count(self, name: str, where: str | None = None) -> int:
        """The number of rows of a table, or of those that match a SQL condition."""

        def of(member: Member) -> int:
            twice = (
                f"({part})" if where is None else f"({where}) AND ({part})"
                for part in is_in("video_id", member.elsewhere)
            )
            return member.reader.count(name, where) - sum(member.reader.count(name, part) for part in twice)

        return sum(self.members.each(of))

    def videos_where(self, condition: str) -> pa.Table:
        """See ``ArchiveReader.videos_where``."""
        found = self.members.each(lambda member: _owned(member, member.reader.videos_where(condition)))
        return pa.concat_tables(found, promote_options="default").sort_by("uri")

    def video_rows(self, video_ids: Iterable[str]) -> pa.Table:
        """Rows of ``videos`` with the given ids; videos that are not done have none."""
        ids = list(dict.fromkeys(video_ids))
        found = self.members.each(lambda member: member.reader.video_rows(member.owned(ids)))
        return pa.concat_tables(found, promote_options="default")

    def addresses_of(self, video_ids: Iterable[str]) -> dict[str, str]:
        """URIs of those of the given videos that are done: video_id to URI."""
        ids = list(dict.fromkeys(video_ids))
        found: dict[str, str] = {}
        for part in self.members.each(lambda member: member.reader.addresses_of(member.owned(ids))):
            found.update(part)
        return found

    def texts_of(self, segment_ids: Iterable[str], prompt_name: str) -> dict[str, str]:
        """The latest text of each given segment for a prompt: segment_id to text."""
        by_member = _grouped(self.members.homes(segment_ids))
        found: dict[str, str] = {}
        for part in self.members.each(
            lambda member: member.reader.texts_of(by_member[member], prompt_name), list(by_member)
        ):
            found.update(part)
        return found


def open_archives(given: str | Sequence[str]) -> ArchiveReader:
    """Open one archive, or several as one: addresses, globs and catalog files (``archive.catalog``).

    Several archives are a ``JoinedArchive``, whose ``members.left_out`` names those that cannot be reached. Raises
    ConfigError as ``entries_of`` does, and ArchiveError for one archive that cannot be opened or if none can.
    """
    addresses = [given] if isinstance(given, str) else list(given)
    if not names_several(addresses):
        return ArchiveReader.open(addresses[0])
    return JoinedArchive(open_members(entries_of(addresses)))


def members_of(archive: ArchiveReader) -> Members | None:
    """The archives that a reader reads as one; None for a reader of one."""
    return archive.members if isinstance(archive, JoinedArchive) else None


def with_same(archive: ArchiveReader, what: str, key: Callable[[Recipe], object]) -> ArchiveReader:
    """Those of several archives whose recipe has the same ``key`` as the first one's; others are left out.

    ``what`` names it in the reason, such as "retrieval model". One archive is returned as it is.
    """
    members = members_of(archive)
    if members is None:
        return archive
    there = members.now()
    first = there[0]
    wanted = key(first.reader.recipe)
    same = [member for member in there if key(member.reader.recipe) == wanted]
    if len(same) == len(there):
        return archive
    others = [
        LeftOut(member.name, member.entry.uri, f"it has another {what} than {first.name}")
        for member in there
        if member not in same
    ]
    return JoinedArchive(members.only(same, others))


def _grouped(homes: Mapping[str, Member]) -> dict[Member, list[str]]:
    """The segments of each archive."""
    groups: defaultdict[Member, list[str]] = defaultdict(list)
    for segment, member in homes.items():
        groups[member].append(segment)
    return dict(groups)


def _owned(member: Member, rows: pa.Table) -> pa.Table:
    """Rows without those of videos that are read from another archive."""
    if not member.elsewhere:
        return rows
    elsewhere = pc.is_in(rows["video_id"], value_set=pa.array(sorted(member.elsewhere), pa.string()))
    return rows.filter(pc.invert(elsewhere))
