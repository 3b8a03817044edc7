"""A writer that stands still at its n-th change of the store, is overtaken, and goes on.

One process plays both writers: the one that freezes reaches the archive under an address of its own, by which its
changes are told apart. The clock of its machine stands still with it, as that of a virtual machine does, so that
nothing but the tables can tell it that it was overtaken.

As a script, with ``freeze.c`` preloaded, for archives on disk:

    python frozen_writer.py FOLDER POINT... [--work everything|vectors] [--without fence|token] [--not-held]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Protocol
from unittest import mock

import lance
import numpy as np

from malmm.pipeline.archive import lease, lease_renewal, lease_table, table_writer
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import open_dataset
from malmm.pipeline.archive.process_identity import place
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.vector_tower import Collected, recipe_of_vectors, remove_leftovers, switch_vectors
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.tables import COLLECTED_VECTORS, table_schemas
from support.archive_rows import (
    PLANNED,
    RECIPE,
    VECTOR_SIZE,
    annotation,
    annotation_table,
    rows,
    segment,
    video,
    video_table,
)

FAILED = [
    Failure(video(0), segment(number), "file:///videos/0.mp4", "decode", "damaged", "noise")
    for number in (0, 1)
]
WHOLE = annotation_table(annotation(None, subject=video(0)))
TABLES = [name for name in table_schemas(1) if name != "recipes"]
PATIENCE_S = 0.05
_OF_LANCE = lance.LanceOperation
CHANGES_ROWS = (
    *(_OF_LANCE.Append, _OF_LANCE.Delete, _OF_LANCE.Merge, _OF_LANCE.Overwrite),
    *(_OF_LANCE.Project, _OF_LANCE.Restore, _OF_LANCE.Rewrite, _OF_LANCE.Update),
)


class Store(Protocol):
    """Where archives lie, and how one who writes to them is stopped."""

    def make(self, number: int) -> tuple[str, str]:
        """A new archive of one segment: its address, and the one under which the first writer reaches it."""

    def freeze_at(self, address: str, change: int) -> None:
        """Stop whoever is about to make the change of this number, or a later one, under an address."""

    def is_frozen(self) -> bool:
        """Whether somebody stands still, or does so within a moment."""

    def thaw(self) -> None:
        """Let them go on."""


class Work(Protocol):
    """What a writer does to an archive that it holds."""

    def __call__(self, archive: Archive, *, tidy: bool = True) -> None:
        """Do it, or what of it is missing. Without ``tidy`` old versions stay."""


@dataclass(frozen=True)
class Outcome:
    """What became of an archive. ``is_overtaken``: the first writer had the lease when it was frozen.

    ``is_unchanged``: no table has another row or a further version since the second writer was done. ``is_right``: all
    tables hold what a run that nobody stops leaves there. ``error`` is how the first writer ended.
    """

    change: int
    is_frozen: bool
    is_overtaken: bool
    is_unchanged: bool
    is_right: bool
    is_told: bool
    error: str


def everything(archive: Archive, *, tidy: bool = True) -> None:
    """All that a run may do to an archive, each kind of change at least once, ending with all that is planned.

    Without ``tidy`` old versions stay.
    """
    archive.sweep()
    done = archive.completed_segments()
    missing = [number for number in PLANNED if segment(number) not in done]
    archive.record_failures(FAILED)
    for numbers in (missing[:2], missing[2:]):
        if numbers:
            archive.commit(write_rows(archive.uri, rows(*numbers)))
    archive.record_failures(FAILED)
    archive.put_videos(video_table(0))
    archive.add_annotations(WHOLE)
    archive.set_metadata({video(0): '{"seen": 1}'})
    archive.commit(write_rows(archive.uri, rows(9)))
    archive.replace_videos({video(0): [segment(number) for number in PLANNED]})
    archive.add_annotations(WHOLE)
    archive.clear_failures([])
    archive.clear_stale_failures({video(0): [segment(0)]})
    archive.put_videos(video_table(1))
    archive.remove_video(video(1))
    if tidy:
        archive.compact(timedelta(0))
        archive.update_indexes(at_once=True)


def little(archive: Archive, *, tidy: bool = True) -> None:
    """The changes by which a segment and a video become done."""
    archive.sweep()
    done = archive.completed_segments()
    missing = [number for number in PLANNED if segment(number) not in done]
    if missing:
        archive.commit(write_rows(archive.uri, rows(*missing)))
    archive.put_videos(video_table(0))
    archive.add_annotations(WHOLE)
    if tidy:
        archive.compact(timedelta(0))


def vectors(archive: Archive, *, tidy: bool = True) -> None:
    """Give the archive the vectors of another retrieval model, as ``malmm reembed`` does."""
    little(archive, tidy=False)
    remove_leftovers(archive.changes)
    if recipe_of_vectors(RECIPE, archive.schema("memories")).retrieval_fingerprint != "another":
        collected = Collected(archive.uri, archive.changes, "another", "another", VECTOR_SIZE)
        done = collected.begin()
        rows_of = archive.tables.rows("memories", columns=["segment_id", "memory_id"]).to_pylist()
        for each in sorted({row["segment_id"] for row in rows_of} - done):
            ids = [row["memory_id"] for row in rows_of if row["segment_id"] == each]
            collected.add([(each, ids, np.ones((len(ids), 1, VECTOR_SIZE), np.float32))])
        switch_vectors(collected)
    if tidy:
        archive.compact(timedelta(0))


def tables_at(address: str) -> Iterator[tuple[str, lance.LanceDataset]]:
    """Every table that a writer changes, by name."""
    for name in TABLES:
        dataset = open_dataset(address, name)
        assert dataset is not None
        yield name, dataset
    collected = open_dataset(address, COLLECTED_VECTORS)
    if collected is not None:
        yield COLLECTED_VECTORS, collected


def contents(address: str) -> dict[str, Counter[str]]:
    """Every row of every table, but for times, and failures: how often something was tried depends on who died."""
    found = {}
    for name, dataset in tables_at(address):
        if name != "failures":
            columns = [column for column in dataset.schema.names if column != "tokens"]
            found[name] = Counter(repr(row) for row in dataset.to_table(columns=columns).to_pylist())
    return found


def versions(address: str) -> dict[str, int]:
    """Every table's latest version that could change a row: making an index or reserving ids of files cannot."""
    found = {}
    for name, dataset in tables_at(address):
        found[name] = dataset.version
        while not isinstance(dataset.read_transaction(found[name]).operation, CHANGES_ROWS):
            found[name] -= 1
    return found


class Story:
    """Tells what becomes of archives in a store whose first writer is frozen while a second takes over.

    Unless the first ``holds`` its archive for all of its work, each of its changes takes the lease for itself.
    """

    def __init__(self, store: Store, work: Work, *, holds: bool = True) -> None:
        self.store = store
        self.work = work
        self.holds = holds
        self.first: threading.Thread | None = None
        clean, _ = store.make(0)
        archive = Archive.open(clean)
        with archive.held():
            work(archive)
        self.expected = contents(clean)

    def is_first(self) -> bool:
        """Whether the thread that asks is the first writer's."""
        return threading.current_thread() is self.first

    def told(self, change: int) -> Outcome:
        """Freeze the first writer at a change, have another take over and do all, and let the first go on."""
        address, alias = self.store.make(change)
        archive = Archive.open(alias)
        errors: list[ArchiveError] = []

        def write() -> None:
            try:
                with archive.held() if self.holds else nullcontext():
                    self.work(archive)
            except ArchiveError as error:
                errors.append(error)

        self.store.freeze_at(alias, change)
        self.first = threading.Thread(target=write, daemon=True)
        self.first.start()
        while not (is_frozen := self.store.is_frozen()) and self.first.is_alive():
            continue
        # Without holding it for all, each change has a lease of its own.
        is_overtaken, before = is_frozen and archive.changes.lease is not None, None
        try:
            if is_frozen:
                second = Archive.open(address)
                with second.held():
                    # Half of the time with all versions kept, half with none, since conflicts are looked for there.
                    self.work(second, tidy=change % 2 == 0)
                before = contents(address), versions(address)
        finally:
            self.store.thaw()
        self.first.join()
        after = contents(address), versions(address)
        return Outcome(
            change,
            is_frozen,
            is_overtaken,
            is_unchanged=before == after,
            is_right=after[0] == self.expected,
            is_told=bool(errors) and isinstance(errors[0], ArchiveBusy),
            error=str(errors[0]) if errors else "",
        )

    @contextmanager
    def on_two_machines(self, without: str | None = None) -> Iterator[None]:
        """Have the two writers be where neither sees the other's process, and the clock of the first stand still.

        ``without`` leaves out a half of what keeps the first one out: ``fence`` or ``token``.
        """
        real = lease_renewal.now_s
        replaced = [
            (lease_renewal, "now_s", lambda: 0.0 if self.is_first() else real()),
            (lease_renewal, "BEAT_S", 3600.0),
            (Lease, "take", partial(Lease.take, patience_s=PATIENCE_S)),
            (lease, "_POLL_S", 0.01),
            *((module, "place", self._place) for module in (lease, lease_table)),
        ]
        if without == "fence":
            replaced.append((lease, "_fence_off", _nothing))
        if without == "token":
            replaced.append((table_writer, "check_token", _nothing))
        with ExitStack() as stack:
            for of, name, value in replaced:
                stack.enter_context(mock.patch.object(of, name, value))
            yield

    def _place(self) -> str:
        return "a machine of its own" if self.is_first() else place()


def _nothing(*_: object) -> None:
    """Take the place of what is left out."""


class Disk:
    """Archives in a folder; ``freeze.c`` stops those who change one through its link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = ctypes.CDLL(None)
        self.library.freeze_at.argtypes = [ctypes.c_char_p, ctypes.c_long]
        self.template = folder / "template"
        made = Archive.create_or_open(str(self.template), RECIPE, VECTOR_SIZE)
        made.commit(write_rows(made.uri, rows(0)))

    def make(self, number: int) -> tuple[str, str]:
        """A copy, and a link to it."""
        real, alias = self.folder / f"archive-{number}", self.folder / f"first-{number}"
        for path in self.folder.glob("*-*"):
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        shutil.copytree(self.template, real)
        alias.symlink_to(real)
        return str(real), str(alias)

    def freeze_at(self, address: str, change: int) -> None:
        """A change makes, renames, links or deletes a file or a folder."""
        self.library.freeze_at(f"{address}/".encode(), change)

    def is_frozen(self) -> bool:
        """Looks for 50 ms."""
        return bool(self.library.frozen(50))

    def thaw(self) -> None:
        """Let all go on."""
        self.library.thaw()


def tell(
    store: Store,
    points: Sequence[int],
    work: Work = everything,
    without: str | None = None,
    *,
    holds: bool = True,
) -> Iterator[Outcome]:
    """What becomes of the archive when its writer is frozen at each of these changes."""
    story = Story(store, work, holds=holds)
    with story.on_two_machines(without):
        for change in points:
            yield story.told(change)


WORKS: dict[str, Work] = {"everything": everything, "vectors": vectors}


def main() -> None:
    """Print an Outcome as a JSON object for each change."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("points", type=int, nargs="+")
    parser.add_argument("--without", choices=("fence", "token"))
    parser.add_argument("--not-held", action="store_true")
    parser.add_argument("--work", choices=WORKS, default="everything")
    options = parser.parse_args()
    disk, holds = Disk(options.folder), not options.not_held
    for outcome in tell(disk, options.points, WORKS[options.work], options.without, holds=holds):
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
