"""A writer that was overtaken while it stood still adds, changes and deletes no row of any table."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lance
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, rows, segment, video_table
from support.frozen_writer import little, tell
from support.object_store import ObjectStore, running

from malmm.pipeline.archive.fencing import forget_old_versions, raise_fence
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.location import open_dataset
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError

SUPPORT = Path(__file__).parents[2] / "support"
# Changes that the writer of `frozen_writer` makes: of files, and of objects by the little that is done there.
CHANGES = 440
CHANGES_IN_STORE = 48


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("freeze") / "freeze.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(made), str(SUPPORT / "freeze.c"), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return made


def on_disk(library: Path, folder: Path, points: list[int], *options: str) -> list[dict[str, Any]]:
    sources = os.pathsep.join(filter(None, [str(SUPPORT.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": sources}
    command = [sys.executable, str(SUPPORT / "frozen_writer.py"), str(folder), *map(str, points), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_kept_out(outcomes: list[dict[str, Any]]) -> None:
    """The writer found nothing but its own rows changed, and the archive is as if it had never been."""
    overtaken = [outcome for outcome in outcomes if outcome["is_overtaken"]]
    assert overtaken
    assert [outcome for outcome in overtaken if not outcome["is_unchanged"]] == []
    assert [outcome for outcome in outcomes if outcome["is_frozen"] and not outcome["is_right"]] == []
    assert any(outcome["is_told"] for outcome in overtaken)


def test_wherever_it_stood_still_on_disk(library: Path, tmp_path: Path) -> None:
    assert_kept_out(on_disk(library, tmp_path, [64, 190, 330]))


def test_wherever_it_stood_still_without_holding_the_archive(library: Path, tmp_path: Path) -> None:
    """What comes after the change that it stood still in takes the lease anew, and may write."""
    outcomes = on_disk(library, tmp_path, [70, 130, 190], "--not-held")
    assert [outcome for outcome in outcomes if not (outcome["is_frozen"] and outcome["is_right"])] == []
    assert any(outcome["is_told"] for outcome in outcomes)


def test_wherever_it_stood_still_while_it_made_vectors_anew(library: Path, tmp_path: Path) -> None:
    assert_kept_out(on_disk(library, tmp_path, [120, 200], "--work", "vectors"))


@pytest.mark.faults
def test_wherever_it_stands_still_on_disk(library: Path, tmp_path: Path, fault_seed: int) -> None:
    assert_kept_out(on_disk(library, tmp_path, random.Random(fault_seed).sample(range(20, CHANGES), 4)))


@pytest.mark.parametrize("without", ["fence", "token"])
def test_without_either_half_it_is_not_kept_out(library: Path, tmp_path: Path, without: str) -> None:
    [outcome] = on_disk(library, tmp_path, [64], "--without", without)
    assert outcome["is_overtaken"]
    assert not outcome["is_unchanged"]
    assert not outcome["is_right"]


class Bucket:
    """Archives in an object store, which holds the changes of who reaches them by another name of equal length."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.held = threading.Event()
        self.go_on = threading.Event()

    def make(self, number: int) -> tuple[str, str]:
        real, alias = f"archive-{number:03d}", f"another-{number:03d}"
        made = Archive.create_or_open(f"s3://films/{real}", RECIPE, VECTOR_SIZE)
        made.commit(write_rows(made.uri, rows(0)))
        self.store.aliases[alias] = real
        return f"s3://films/{real}", f"s3://films/{alias}"

    def freeze_at(self, address: str, change: int) -> None:
        alias, seen = address.rpartition("/")[2], iter(range(1 << 30))
        self.held.clear()
        self.go_on.clear()

        def hold(method: str, path: str) -> str:
            if alias in path and method in ("PUT", "POST", "DELETE") and next(seen) >= change:
                self.held.set()
                self.go_on.wait()
            return "ok"

        self.store.fault = hold

    def is_frozen(self) -> bool:
        return self.held.wait(0.05)

    def thaw(self) -> None:
        self.go_on.set()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with running("films") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield Bucket(store)


@pytest.mark.faults
def test_wherever_it_stands_still_in_an_object_store(bucket: Bucket, fault_seed: int) -> None:
    point = random.Random(fault_seed).choice(range(12, CHANGES_IN_STORE))
    assert_kept_out([vars(outcome) for outcome in tell(bucket, [point], little)])


def test_a_commit_between_a_token_and_its_merge_is_let_in_and_is_the_last(tmp_path: Path) -> None:
    """Of a writer that goes on at that very moment."""
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    with made.held():
        begun = made.table("videos").to_lance()
        begun.update_config({"malmm.fencing_token": "1"})
        made.put_videos(video_table(0))
        lease = made.changes.lease
        assert lease is not None
        raise_fence(made.uri, "videos", lease.token)
        made.put_videos(video_table(1))
        raise_fence(made.uri, "videos", lease.token + 1)
        with pytest.raises(ArchiveBusy, match="taken over by another writer"):
            made.put_videos(video_table(2))
        with pytest.raises(ArchiveBusy):
            raise_fence(made.uri, "videos", lease.token)
    assert made.count("videos") == 2


def test_old_versions_are_forgotten_without_forgetting_the_fence(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    begun = made.table("segments").to_lance()
    raise_fence(made.uri, "segments", 1)
    for number in range(3):
        made.commit(write_rows(made.uri, rows(number)))
        latest = open_dataset(made.uri, "segments")
        assert latest is not None
        forget_old_versions(latest, timedelta(0))
    assert len(made.table("segments").to_lance().versions()) == 1
    with pytest.raises(OSError, match="preempted"):
        lance.write_dataset(rows(4)["segments"], begun, mode="append")
    assert made.completed_segments() == {segment(number) for number in range(3)}


def test_a_fence_loses_nothing(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    made.commit(write_rows(made.uri, rows(0, 1, 2)))
    made.remove_video("0" * 24)
    made.update_indexes(at_once=True)
    before = {name: made.tables.rows(name) for name in ("segments", "annotations")}
    tokens = [values.tobytes() for _, values, _ in made.memory_tokens([segment(0), segment(2)])]
    indexes = [index.name for index in made.table("annotations").list_indices()]
    for token in range(1, 4):
        for name in ("segments", "annotations", "memories"):
            raise_fence(made.uri, name, token)
    assert {name: made.tables.rows(name) for name in before} == before
    assert [values.tobytes() for _, values, _ in made.memory_tokens([segment(0), segment(2)])] == tokens
    assert [index.name for index in made.table("annotations").list_indices()] == indexes
    assert made.table("annotations").search("square", query_type="fts").to_arrow().num_rows == 3


def test_tables_of_another_generation_are_fenced_off_too(tmp_path: Path) -> None:
    """Of a writer that was making them, from one that does not know of them."""
    place = str(tmp_path / "archive")
    Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    anew = Archive.create_or_open(place, replace(RECIPE, fps=2.0), VECTOR_SIZE, reindex=True)
    begun = anew.table("segments").to_lance()
    with pytest.raises(ArchiveError), anew.held():
        raise ArchiveError("the store went away", uri=place)
    with Lease.take(place):
        pass
    with pytest.raises(OSError, match="preempted"):
        lance.write_dataset(rows(0)["segments"], begun, mode="append")


def test_a_generation_is_never_made_where_one_was_in_force_before(tmp_path: Path) -> None:
    """Whoever replaced that one may still be about to delete its tables."""
    place, others = str(tmp_path / "archive"), [replace(RECIPE, fps=fps) for fps in (2.0, 3.0, 2.0, 1.0)]
    used = [Archive.create_or_open(place, RECIPE, VECTOR_SIZE).uri]
    for recipe in others:
        anew = Archive.create_or_open(place, recipe, VECTOR_SIZE, reindex=True)
        again = Archive.create_or_open(place, recipe, VECTOR_SIZE, reindex=True)
        assert again.uri == anew.uri, "what was begun is gone on with"
        assert anew.uri not in used
        used.append(anew.uri)
        with anew.held():
            anew.commit(write_rows(anew.uri, rows(0)))
            assert anew.put_in_force()
        assert Archive.open(place).uri == anew.uri
        assert Archive.open(place).count("segments") == 1


def test_a_lease_table_made_anew_goes_on_with_greater_tokens(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    for number in range(3):
        with pytest.raises(KeyboardInterrupt), made.held():
            raise KeyboardInterrupt
        with made.held():
            made.commit(write_rows(made.uri, rows(number)))
    shutil.rmtree(tmp_path / "archive" / "writer.lance")
    with made.held():
        made.commit(write_rows(made.uri, rows(3)))
    assert made.count("segments") == 4
