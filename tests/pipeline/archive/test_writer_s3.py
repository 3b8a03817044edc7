from __future__ import annotations

import socket

import boto3
import numpy as np
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, rows, segment, tokens, video, video_table
from support.object_store import running

from malmm.pipeline.archive.joined import open_archives
from malmm.pipeline.archive.partition_listings import PartitionListings
from malmm.pipeline.archive.partitions import fix_partitions, has_catalog
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.small_files import publish_once
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.partition import Partition, all_partitions


@pytest.fixture
def bucket(monkeypatch):
    with running("archives") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield "s3://archives"


def test_an_archive_in_an_object_store(bucket):
    place = f"{bucket}/films/"
    with pytest.raises(ArchiveError, match="there is no archive at"):
        Archive.open(place)
    archive = Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    receipts = write_rows(archive.uri, rows(0, 1))
    assert archive.count("memories") == 0
    archive.commit(receipts)
    assert archive.commit(receipts).segment_ids == ()
    archive.put_videos(video_table(0))
    reader = Archive.open(place)
    assert reader.recipe == RECIPE
    for key, values, _ in reader.memory_tokens([segment(0), segment(1)]):
        np.testing.assert_array_equal(values, tokens(key))
    assert archive.replace_videos({video(0): [segment(1)]})["memories"] == 3
    assert archive.sweep() == {"memories": 0, "annotations": 0}
    archive.compact()
    assert reader.table("memories").count_rows() == 3

    with pytest.raises(ArchiveError, match=r"cannot .*s3://nowhere/films.*check the bucket"):
        Archive.create_or_open("s3://nowhere/films", RECIPE, VECTOR_SIZE)


def test_a_store_that_does_not_answer(bucket, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(ArchiveError, match="AWS_ENDPOINT_URL"):
        Archive.open("s3://archives/films")


def test_files_that_nobody_committed_are_deleted(bucket):
    client = boto3.client("s3")
    archive = Archive.create_or_open(f"{bucket}/killed", RECIPE, VECTOR_SIZE)

    def files():
        listed = client.list_objects_v2(Bucket="archives", Prefix="killed/memories.lance/data/")
        return {entry["Key"] for entry in listed.get("Contents", [])}

    archive.commit(write_rows(archive.uri, rows(0)))
    kept = files()
    write_rows(archive.uri, rows(1, 2))
    assert len(files()) == len(kept) + 2
    with archive.held():
        archive.sweep()
    assert files() == kept
    assert archive.memory_rows([segment(0)]).num_rows == 3


def test_partitions_in_an_object_store(bucket):
    place = f"{bucket}/divided"
    assert not has_catalog(place)
    assert fix_partitions(place, 2, RECIPE)
    assert not publish_once(f"{place}/catalog.yaml", b"another run's")
    assert not fix_partitions(place, 2, RECIPE)
    assert has_catalog(place)
    with pytest.raises(ArchiveError, match="holds several"):
        Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    for each in all_partitions(2):
        Archive.create_or_open(each.below(place), RECIPE, VECTOR_SIZE)
        PartitionListings(place, each, "sources").record()
    assert PartitionListings(place, Partition(2, 0), "sources").missing() == []
    assert [reader.root for reader in open_archives(place).archives] == [
        f"{place}/part-0000",
        f"{place}/part-0001",
    ]
    assert not has_catalog(f"{place}/part-0000")
    with pytest.raises(ArchiveError, match="an archive without partitions"):
        fix_partitions(f"{place}/part-0000", 2, RECIPE)
