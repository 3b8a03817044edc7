"""Partitions: each video belongs to one, wherever, whenever and in whatever order it is listed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition, all_partitions, is_partition_name, partition_index

URIS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=12)


@settings(deadline=None, max_examples=50)
@given(URIS, st.integers(1, 1000), st.randoms(use_true_random=False))
def test_partitions_are_disjoint_cover_all_and_do_not_change_with_order(
    uris: list[str], number: int, random: object
) -> None:
    first = {uri: partition_index(uri, number) for uri in uris}
    assert all(0 <= index < number for index in first.values())
    random.shuffle(uris)  # type: ignore[attr-defined]
    assert {uri: partition_index(uri, number) for uri in uris} == first
    for uri, index in first.items():
        near = {index, 0, number - 1, (index + 1) % number}
        assert [each for each in sorted(near) if Partition(number, each).holds(uri)] == [index]


def test_partitions_are_those_of_archives_on_disk() -> None:
    # Written down: with another hash, runs would index again what the archives of others have.
    assert [partition_index(f"s3://films/{each}.mp4", 8) for each in range(6)] == [0, 1, 4, 1, 3, 4]
    assert partition_index("/videos/Ä b.mkv", 1000) == 852


@pytest.mark.parametrize("number", [2, 8, 64])
def test_many_names_that_are_alike_are_spread_evenly(number: int) -> None:
    sizes = [0] * number
    for each in range(10_000):
        sizes[partition_index(f"s3://films/{each // 100:04d}/{each:08d}.mp4", number)] += 1
    mean = 10_000 / number
    # Five standard deviations of a fair draw.
    assert max(sizes) < mean + 5 * mean**0.5


@pytest.mark.parametrize(
    ("number", "index", "said"),
    [
        (0, 0, "--partitions 0: from 1 to 1000"),
        (1001, 0, "--partitions 1001: from 1 to 1000"),
        (8, 8, "--partition 8: from 0 to 7, since there are 8"),
        (8, -1, "--partition -1: from 0 to 7"),
    ],
)
def test_numbers_out_of_range_are_refused(number: int, index: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Partition(number, index)


@pytest.mark.parametrize("address", ["/films/archive", "s3://bucket/archive", "archive", "/"])
def test_an_archive_lies_below_the_address_of_all(address: str) -> None:
    parts = all_partitions(12)
    assert [each.index for each in parts] == list(range(12))
    for each in parts:
        archive = each.below(address)
        assert each.parent_of(archive) == address
        assert is_partition_name(archive.rpartition("/")[2])
    with pytest.raises(ConfigError, match="is not the archive of partition 1"):
        parts[1].parent_of(parts[2].below(address))
    assert not is_partition_name("part-1")
