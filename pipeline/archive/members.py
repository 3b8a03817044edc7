"""Archives that are read together: in parallel, each video from one of them, without those that cannot be reached."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import lance
import numpy as np

from malmm.pipeline.archive.catalog import Entry
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ArchiveError

__all__ = ["LeftOut", "Member", "Members", "open_members"]

# An archive that failed is tried again after this time, and whether videos came or went is looked up as often.
_AGAIN_S, _LOOKED_EVERY_S = 30.0, 2.0
_MOST_THREADS = 32
_INDEX_CACHE_BYTES, _LAYOUT_CACHE_BYTES = 4 << 30, 512 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class LeftOut:
    """An archive that takes no part, and why."""

    name: str
    archive: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return dict(vars(self))


class Member:
    """One of several archives.

    ``elsewhere`` are the ids of its videos that are read from another archive, and ``own`` those of all others, None if
    nothing is read elsewhere.
    """

    def __init__(self, entry: Entry, reader: ArchiveReader) -> None:
        self.entry, self.reader = entry, reader
        self.elsewhere: frozenset[str] = frozenset()
        self.own: tuple[str, ...] | None = None
        self.problem: str | None = None
        self.again_at = 0.0
        self._known: tuple[object, np.ndarray, np.ndarray] | None = None

    @property
    def name(self) -> str:
        """What users call it."""
        return self.entry.name

    def videos(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of its completed videos, and of those with completed segments: sorted bytes [V] each."""
        tables = self.reader.tables
        state = (self.reader.uri, tables.version("videos"), tables.version("segments"))
        if self._known is None or self._known[0] != state:
            done, begun = (_sorted(tables.ids(name, "video_id")) for name in ("videos", "segments"))
            self._known = (state, done, begun)
        return self._known[1], self._known[2]

    def owned(self, video_ids: Iterable[str]) -> list[str]:
        """Those of the given videos that are read from this archive."""
        if self._known is None:
            return []
        ids = list(video_ids)
        wanted = np.asarray(ids, dtype=np.bytes_)
        here = _among(wanted, self._known[1]) | _among(wanted, self._known[2])
        return [
            name
            for name, there in zip(ids, here.tolist(), strict=True)
            if there and name not in self.elsewhere
        ]


class Members:
    """Several archives, in order: the first that has a video is the one that it is read from.

    Thread-safe. An archive that fails is left out until it can be opened again.
    """

    def __init__(self, members: Sequence[Member], left_out: Sequence[LeftOut] = ()) -> None:
        """Raises ArchiveError if there is no member."""
        if not members:
            reasons = "; ".join(f"{each.name}: {each.reason}" for each in left_out)
            uri = left_out[0].archive if left_out else ""
            raise ArchiveError(f"none of the archives can be read: {reasons}", uri=uri)
        self.all = tuple(members)
        self._left_out = tuple(left_out)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, 2 * len(members)), "archives")
        self._shared: object = None
        self._homes: dict[str, Member] = {}
        # One of its own: the other is held while the threads work, which remember what they find.
        self._homes_lock = threading.Lock()
        self._looked = -_LOOKED_EVERY_S

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The archives that are left out at present."""
        failing = (LeftOut(m.name, m.entry.uri, m.problem) for m in self.all if m.problem is not None)
        return (*self._left_out, *failing)

    def now(self) -> list[Member]:
        """The members that take part, in order, each with the videos that are read from others."""
        now = time.monotonic()
        for member in self.all:
            if member.problem is not None and now >= member.again_at:
                member.again_at = now + _AGAIN_S
                # An unreachable store may take long to fail: no caller waits for it.
                self._threads.submit(self._reopen, member)
        there = [member for member in self.all if member.problem is None]
        with self._lock:
            if now - self._looked >= _LOOKED_EVERY_S or self._shared != there:
                self._share(there)
        return [member for member in there if member.problem is None]

    def each(self, work: Callable[[Member], T], among: Iterable[Member] | None = None) -> list[T]:
        """Results of ``work`` for the members that take part, or those ``among`` them, in order.

        Leaves out a member that can no longer be opened. Raises ArchiveError if none is left, or if a member that can
        be opened fails.
        """
        wanted = self.now() if among is None else list(among)
        found = self._run(work, wanted)
        if wanted and not found:
            reasons = "; ".join(f"{member.name}: {member.problem}" for member in wanted)
            raise ArchiveError(f"none of the archives can be read: {reasons}", uri=wanted[0].entry.uri)
        return found

    def owners(self, video_ids: Iterable[str]) -> dict[str, Member]:
        """The archive that each of the given videos is read from; videos in none are left out."""
        ids = list(dict.fromkeys(video_ids))
        return {video: member for member in self.now() for video in member.owned(ids)}

    def remember(self, member: Member, segment_ids: Iterable[str]) -> None:
        """Keep for a moment that these completed segments are read from a member, as a search found them there."""
        with self._homes_lock:
            self._homes.update(dict.fromkeys(segment_ids, member))

    def homes(self, segment_ids: Iterable[str]) -> dict[str, Member]:
        """The archive that each of the given segments is read from; segments that are not completed are left out."""
        ids = list(dict.fromkeys(segment_ids))
        members = self.now()
        with self._homes_lock:
            known = {segment: self._homes[segment] for segment in ids if segment in self._homes}
        missing = [segment for segment in ids if segment not in known]
        if missing:

            def of(member: Member) -> tuple[Member, list[str]]:
                done = member.reader.completed_among(missing)
                if not done or not member.elsewhere:
                    return member, list(done)
                rows = member.reader.tables.rows(
                    "segments", is_in("segment_id", done), ["segment_id", "video_id"]
                )
                return member, [
                    row["segment_id"] for row in rows.to_pylist() if row["video_id"] not in member.elsewhere
                ]

            for member, found in self.each(of, members):
                known.update(dict.fromkeys(found, member))
                self.remember(member, found)
        return {segment: known[segment] for segment in ids if segment in known}

    def opened_again(self, name: str) -> bool:
        """Open the archive of this name again, without waiting for the next try. Returns whether it works."""
        return all(self._reopen(member) for member in self.all if member.name == name)

    def only(self, chosen: Sequence[Member], left_out: Sequence[LeftOut]) -> Members:
        """Some of these archives; ``left_out`` says why the others are not among them."""
        members = [Member(member.entry, member.reader) for member in chosen]
        return Members(members, (*self.left_out, *left_out))

    def _run(self, work: Callable[[Member], T], members: Sequence[Member]) -> list[T]:
        def attempt(member: Member) -> tuple[bool, T | None]:
            try:
                return True, work(member)
            except ArchiveError:
                # A new recipe may have replaced the tables that were read.
                if not self._reopen(member):
                    return False, None
                return True, work(member)

        alone = len(members) == 1
        outcomes = [attempt(members[0])] if alone else list(self._threads.map(attempt, members))
        return [result for done, result in outcomes if done]  # type: ignore[misc]

    def _reopen(self, member: Member) -> bool:
        """Open a member again; if that fails leave it out for a while."""
        try:
            reader = ArchiveReader.open(member.entry.uri, member.reader.tables.session)
            if (reader.uri, reader.recipe) != (member.reader.uri, member.reader.recipe):
                member.reader = reader
            member.videos()
        except ArchiveError as error:
            member.problem, member.again_at = str(error), time.monotonic() + _AGAIN_S
            return False
        member.problem = None
        return True

    def _share(self, members: Sequence[Member]) -> None:
        """Decide from which archive each video is read that is in several: a complete one comes first."""
        there: list[tuple[Member, np.ndarray, np.ndarray]] = []
        self._run(lambda member: there.append((member, *member.videos())), members)
        there = sorted(
            (each for each in there if each[0].problem is None), key=lambda each: members.index(each[0])
        )
        none = np.empty(0, np.bytes_)
        complete = _union([done for _, done, _ in there])
        earlier_done, earlier_begun = none, none
        for member, done, begun in there:
            unfinished = begun[~_among(begun, complete)]
            others = [
                done[_among(done, earlier_done)],
                begun[_among(begun, complete) & ~_among(begun, done)],
                unfinished[_among(unfinished, earlier_begun)],
            ]
            elsewhere = _union(others)
            own = _union([done, begun])
            own = own[~_among(own, elsewhere)]
            member.elsewhere = frozenset(name.decode() for name in elsewhere.tolist())
            member.own = tuple(name.decode() for name in own.tolist()) if len(elsewhere) else None
            earlier_done, earlier_begun = _union([earlier_done, done]), _union([earlier_begun, begun])
        with self._homes_lock:
            self._homes.clear()
        self._shared, self._looked = list(members), time.monotonic()


def open_members(entries: Sequence[Entry]) -> Members:
    """Open archives, at the same time. Those that cannot be opened are left out. Raises ArchiveError if all are."""
    # One cache for all: metadata and indexes of many archives are bounded together.
    session = lance.Session(
        index_cache_size_bytes=_INDEX_CACHE_BYTES, metadata_cache_size_bytes=_LAYOUT_CACHE_BYTES
    )

    def opened(entry: Entry) -> Member | LeftOut:
        try:
            return Member(entry, ArchiveReader.open(entry.uri, session))
        except ArchiveError as error:
            return LeftOut(entry.name, entry.uri, str(error))

    with ThreadPoolExecutor(max(1, min(_MOST_THREADS, len(entries), 4 * (os.cpu_count() or 1)))) as threads:
        outcomes = list(threads.map(opened, entries))
    return Members(
        [each for each in outcomes if isinstance(each, Member)],
        [each for each in outcomes if isinstance(each, LeftOut)],
    )


def _sorted(names: Iterable[str]) -> np.ndarray:
    return np.sort(np.asarray(list(names), dtype=np.bytes_))


def _among(wanted: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the wanted are in a sorted array: bool [W]."""
    if not len(known) or not len(wanted):
        return np.zeros(len(wanted), bool)
    places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.asarray(known[places] == wanted)


def _union(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([*parts, np.empty(0, np.bytes_)]))
