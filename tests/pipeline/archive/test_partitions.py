"""What is fixed for all partitions, who may make it, and when a partition may prune."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from malmm.pipeline.archive.catalog import Entry, entries_of, names_several
from malmm.pipeline.archive.partition_listings import PartitionListings, sources_key
from malmm.pipeline.archive.partitions import (
    CATALOG_NAME,
    fix_partitions,
    has_catalog,
    partition_at,
    partitioned_at,
    refuse_partition,
)
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.small_files import publish_once, read_file, write_file
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError, ConfigError, MalmmError, RecipeMismatch
from malmm.pipeline.schema.partition import Partition, all_partitions

RECIPE = Recipe("a/model", "m1", "a/tower", "t1", 1.0, 100.0, 20, "token", 224)


def test_the_first_run_fixes_number_and_recipe(tmp_path: Path) -> None:
    place = str(tmp_path / "archive")
    assert partitioned_at(place) is None
    assert fix_partitions(place, 3, RECIPE)
    assert not fix_partitions(place, 3, replace(RECIPE, model="the/same/elsewhere"))
    found = partitioned_at(place)
    assert found is not None
    assert (found.number, found.recipe) == (3, RECIPE)
    # Nothing but the catalog was written, and it is a catalog like any other.
    assert [path.name for path in Path(place).iterdir()] == [CATALOG_NAME]
    entries = [Entry(f"part-000{each}", f"{place}/part-000{each}") for each in range(3)]
    assert entries_of([place]) == entries_of([f"{place}/{CATALOG_NAME}"]) == entries
    assert names_several([place])


@pytest.mark.parametrize(
    ("number", "changed", "kind", "said"),
    [
        (4, {}, ConfigError, ["has 3 partitions", "--partitions 4 was asked", "use --partitions 3"]),
        (3, {"fps": 2.0}, RecipeMismatch, ["--fps 1.0 stored, 2.0 asked", "fixed for all partitions"]),
        (3, {"segment_s": 30.0}, RecipeMismatch, ["--segment-s 100.0 stored, 30.0 asked"]),
        (3, {"bank_length": 10}, RecipeMismatch, ["--bank-length 20 stored, 10 asked"]),
        (3, {"merge_policy": "fifo"}, RecipeMismatch, ["--merge-policy token stored, fifo asked"]),
        (3, {"tokens": "int8"}, RecipeMismatch, ["--tokens float16 stored, int8 asked"]),
        (
            3,
            {"model": "b/model", "model_fingerprint": "m2"},
            RecipeMismatch,
            ["--model a/model stored, b/model asked"],
        ),
        (3, {"model_fingerprint": "m2"}, RecipeMismatch, ["a/model has other weights"]),
        (
            3,
            {"retrieval_model": "none", "retrieval_fingerprint": "none"},
            RecipeMismatch,
            ["--retrieval-model a/tower stored, none asked"],
        ),
    ],
)
def test_a_run_with_others_is_refused_by_a_sentence_with_both(
    tmp_path: Path, number: int, changed: dict[str, Any], kind: type[MalmmError], said: list[str]
) -> None:
    place = str(tmp_path)
    fix_partitions(place, 3, RECIPE)
    before = (tmp_path / CATALOG_NAME).read_bytes()
    with pytest.raises(kind) as caught:
        fix_partitions(place, number, replace(RECIPE, **changed))
    assert [part for part in said if part not in str(caught.value)] == []
    assert "--reindex" not in str(caught.value)
    assert (tmp_path / CATALOG_NAME).read_bytes() == before


def test_of_runs_that_begin_at_once_one_makes_the_catalog(tmp_path: Path) -> None:
    place = str(tmp_path / "archive")
    outcomes: list[object] = []
    together = threading.Barrier(8)

    def begin(number: int) -> None:
        recipe = replace(RECIPE, fps=1.0 + number % 2)
        together.wait()
        try:
            outcomes.append(fix_partitions(place, 3, recipe))
        except RecipeMismatch:
            outcomes.append("refused")

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["False"] * 3 + ["True"] + ["refused"] * 4
    assert partitioned_at(place) is not None


def test_an_address_is_one_archive_or_several(tmp_path: Path) -> None:
    alone, shared, full = str(tmp_path / "alone"), str(tmp_path / "shared"), tmp_path / "full"
    Archive.create_or_open(alone, RECIPE, 8)
    with pytest.raises(ArchiveError, match="an archive without partitions"):
        fix_partitions(alone, 3, RECIPE)
    fix_partitions(shared, 3, RECIPE)
    for make in (Archive.create_or_open, Archive.open_if_there):
        with pytest.raises(ArchiveError, match=r"holds several, which catalog.yaml lists: .* --partitions"):
            make(shared, RECIPE, 8)
    with pytest.raises(ArchiveError, match="name one of them"):
        ArchiveReader.open(shared)
    full.mkdir()
    (full / "film.mp4").touch()
    with pytest.raises(ArchiveError, match=r"not empty \(it holds 'film.mp4'\)"):
        fix_partitions(str(full), 3, RECIPE)
    # A catalog in the folder of an archive changes nothing of it.
    (Path(alone) / CATALOG_NAME).write_text("archives: [north]")
    assert not has_catalog(alone)
    assert not names_several([alone])


def test_a_run_without_partitions_does_not_write_to_one(tmp_path: Path) -> None:
    place = str(tmp_path / "archive")
    archive = Partition(3, 1).below(place)
    refuse_partition(archive)
    assert partition_at(archive) is None
    fix_partitions(place, 3, RECIPE)
    assert partition_at(archive) == Partition(3, 1)
    with pytest.raises(ConfigError, match=rf"--archive {place} --partitions 3 --partition 1"):
        refuse_partition(archive)
    refuse_partition(str(tmp_path / "other"))


@pytest.mark.parametrize(
    "text",
    [
        "archives: [a]",
        "archives: [a]\npartitions: 3",
        "archives: [a]\npartitions: {number: 0, recipe: {}}",
        "archives: [a]\npartitions: {number: 2, recipe: {fps: 1}}",
        "archives: [",
        "\x00",
    ],
)
def test_a_catalog_that_fixes_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CATALOG_NAME).write_text(text)
    with pytest.raises(ArchiveError, match="is not a catalog of partitions"):
        fix_partitions(str(tmp_path), 3, RECIPE)


def test_a_small_file_is_made_once_and_written_whole(tmp_path: Path) -> None:
    place = str(tmp_path / "below" / "file")
    assert read_file(place) is None
    assert publish_once(place, b"first")
    assert not publish_once(place, b"second")
    assert read_file(place) == b"first"
    write_file(place, b"third")
    assert read_file(place) == b"third"
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["file"]
    assert read_file(f"{place}/inside") is None
    for attempt in (publish_once, write_file):
        with pytest.raises(ArchiveError, match="cannot write"):
            attempt(f"{place}/inside", b"")


class Sharers:
    """Runs of all partitions of one job, which list and prune."""

    def __init__(self, place: Path, number: int) -> None:
        self.place, self.number = place, number

    def of(self, index: int, *sources: str) -> PartitionListings:
        key = sources_key(sources or ("videos",), ())
        return PartitionListings(str(self.place), Partition(self.number, index), key)


def test_pruning_waits_until_all_have_listed_the_same_sources_again(tmp_path: Path) -> None:
    sharers = Sharers(tmp_path, 3)
    sharers.of(0).record()
    assert sharers.of(0).missing() == ["part-0001", "part-0002"]
    sharers.of(1).record()
    sharers.of(2, "other videos").record()
    assert sharers.of(0).missing() == ["part-0002"]
    sharers.of(2).record()
    assert sharers.of(0).missing() == []
    sharers.of(0).close()
    # From now on it takes new listings. A killed run that is run again counts once more, and harms nothing.
    sharers.of(0).record()
    assert sharers.of(0).missing() == ["part-0001", "part-0002"]
    sharers.of(1).record()
    sharers.of(1).record()
    assert sharers.of(0).missing() == ["part-0002"]
    assert sharers.of(1).missing() == []
    sharers.of(2).record()
    assert sharers.of(0).missing() == []
    (tmp_path / "listings" / "part-0002.json").write_text("{")
    with pytest.raises(ArchiveError, match=r"part-0002.json is damaged: delete it"):
        sharers.of(0).missing()


STEPS = st.lists(st.tuples(st.sampled_from(["list", "prune"]), st.integers(0, 2)), max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(STEPS)
def test_a_partition_prunes_only_if_each_other_has_listed_since(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    sharers = Sharers(tmp_path_factory.mktemp("listings"), 3)
    listed_since: dict[int, set[int]] = {each: set() for each in range(3)}
    for deed, index in steps:
        run = sharers.of(index)
        if deed == "list":
            run.record()
            for others in listed_since.values():
                others.add(index)
        elif not run.missing():
            assert listed_since[index] >= {0, 1, 2} - {index}
            run.close()
            listed_since[index].clear()
        else:
            assert not listed_since[index] >= {0, 1, 2} - {index}


def test_sources_count_whatever_their_order() -> None:
    assert sources_key(["a", "b"], ["x"]) == sources_key(["b", "a"], ["x"])
    assert (
        len({sources_key(*each) for each in ((["a"], []), (["b"], []), (["a"], ["b"]), (["a", "b"], []))})
        == 4
    )


def test_the_listing_of_a_partition_is_its_own_file(tmp_path: Path) -> None:
    sharers = Sharers(tmp_path, 2)
    for each in all_partitions(2):
        sharers.of(each.index).record()
    assert sorted(path.name for path in (tmp_path / "listings").iterdir()) == [
        "part-0000.json",
        "part-0001.json",
    ]
    assert json.loads((tmp_path / "listings" / "part-0001.json").read_text())["listings"] == 1
