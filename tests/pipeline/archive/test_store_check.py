"""Where two writers could both commit, no archive is made and none is written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, rows, segment, video_table
from support.object_store import ObjectStore, running
from support.waiting import until

from malmm.pipeline.archive.joined import open_archives
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.partition_listings import PartitionListings
from malmm.pipeline.archive.partitions import fix_partitions
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.status import status
from malmm.pipeline.archive.store_check import check_store, deleted_is_kept, store_name
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.partition import all_partitions


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with running("films") as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def probes(store: ObjectStore) -> int:
    return sum(method == "PUT" and ".malmm-probe-" in path for method, path, _ in store.requests)


def test_a_store_that_ignores_conditions_is_refused(store: ObjectStore) -> None:
    Archive.create_or_open("s3://films/good", RECIPE, VECTOR_SIZE)
    assert probes(store) == 2
    with Lease.take("s3://films/good"):
        assert probes(store) == 4
    with Lease.take("s3://films/good"):
        assert probes(store) == 4, "it is tried once"
    store.ignored_headers.add("if-none-match")
    with Lease.take("s3://films/good"):
        pass
    store.forget()
    with pytest.raises(ArchiveError, match=r"ignores If-None-Match.*two writers.*give --archive a store"):
        Archive.create_or_open("s3://films/new", RECIPE, VECTOR_SIZE)
    assert [path for method, path, _ in store.requests if method == "PUT" and "lance" in path] == []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_an_endpoint_without_tls_needs_leave_which_the_check_says(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The check's own client writes there without leave, and Lance does not."""
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, store.endpoint)
    check_store("s3://films/plain")
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(
        ArchiveError, match=rf"^cannot read .* \({name} has no TLS: set AWS_ALLOW_HTTP=true; "
    ):
        check_store("s3://films/plain")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_a_move_to_another_endpoint_is_noticed(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """However the environment names it, Lance and the check go to the same store."""
    # What the server holds outlives a test.
    place = f"s3://films/{name}"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, store.endpoint)
    Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    with Lease.take(place):
        assert probes(store) == 4
    store.ignored_headers.add("if-none-match")
    with Lease.take(place):
        assert probes(store) == 4
    monkeypatch.setenv(name, f"{store.endpoint}/")
    with pytest.raises(ArchiveError, match="ignores If-None-Match"):
        Lease.take(place)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("none", r"^$"),
        ("Enabled", r"^bucket kept-enabled has versioning \(enabled\) and keeps deleted objects"),
        ("Suspended", r"^bucket kept-suspended has versioning \(suspended\) and keeps deleted objects"),
        ("403", r"^whether bucket kept-403 keeps deleted objects could not be seen \(.*403"),
    ],
)
def test_a_bucket_that_keeps_what_is_deleted_is_told_of(
    monkeypatch: pytest.MonkeyPatch, state: str, said: str
) -> None:
    # What the server holds outlives a test.
    bucket = f"kept-{state.lower()}"
    with running(bucket) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        if state in ("Enabled", "Suspended"):
            with closing(boto3.client("s3")) as client:
                client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": state})
        elif state == "403":
            store.fault = lambda method, path: "403" if "versioning" in path else "ok"
        assert re.search(said, deleted_is_kept(f"s3://{bucket}/archive"))


def test_a_disk_keeps_nothing(tmp_path: Path) -> None:
    assert deleted_is_kept(str(tmp_path)) == ""


def test_the_check_goes_where_lance_goes_whatever_a_profile_says(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:9\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    Archive.create_or_open("s3://films/profile", RECIPE, VECTOR_SIZE)
    assert probes(store) == 2


def test_a_copy_behind_the_same_address_is_noticed(store: ObjectStore) -> None:
    """An endpoint's name may come to mean another store: dates of objects tell, as no copy can keep them."""
    Archive.create_or_open("s3://films/copied", RECIPE, VECTOR_SIZE)
    with Lease.take("s3://films/copied"):
        pass
    store.ignored_headers.add("if-none-match")
    with Lease.take("s3://films/copied"):
        pass
    before = store_name("s3://films/copied")

    def is_copied() -> bool:
        """Dates count seconds."""
        client = boto3.client("s3", endpoint_url=store.endpoint)
        for found in client.list_objects_v2(Bucket="films", Prefix="copied/recipes.lance/")["Contents"]:
            body = client.get_object(Bucket="films", Key=found["Key"])["Body"].read()
            client.put_object(Bucket="films", Key=found["Key"], Body=body)
        client.close()
        return store_name("s3://films/copied") != before

    until(is_copied)
    with pytest.raises(ArchiveError, match="ignores If-None-Match"):
        Lease.take("s3://films/copied")


def test_a_store_that_does_not_know_conditions_is_refused(store: ObjectStore) -> None:
    store.fault = lambda method, path: "501" if method == "PUT" and "probe" in path else "ok"
    with pytest.raises(ArchiveError, match="ignores If-None-Match"):
        Archive.create_or_open("s3://films/new", RECIPE, VECTOR_SIZE)


def test_a_store_that_stumbles_is_asked_again(store: ObjectStore) -> None:
    """Each request for the probe and for the small files beside archives fails once."""
    failed = set()

    def stumble(method: str, path: str) -> str:
        name = path.partition("?")[0]
        if (method, name) in failed or not ("probe" in name or name.endswith((".yaml", ".json"))):
            return "ok"
        failed.add((method, name))
        return "503"

    store.fault = stumble
    place = "s3://films/stumbling"
    assert fix_partitions(place, 1, RECIPE)
    [only] = all_partitions(1)
    Archive.create_or_open(only.below(place), RECIPE, VECTOR_SIZE)
    PartitionListings(place, only, "sources").record()
    assert PartitionListings(place, only, "sources").missing() == []
    assert [reader.root for reader in open_archives(place).archives] == [only.below(place)]
    assert {method for method, _ in failed} >= {"PUT", "DELETE", "GET"}


def test_a_store_that_refuses_the_probe_says_why(store: ObjectStore) -> None:
    store.fault = lambda method, path: "403" if method == "PUT" else "ok"
    with pytest.raises(ArchiveError, match=r"cannot write to s3://films/new: .*check the bucket"):
        Archive.create_or_open("s3://films/new", RECIPE, VECTOR_SIZE)


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Archive.create_or_open(str(tmp_path / "good"), RECIPE, VECTOR_SIZE)
    with made.held():
        pass

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ArchiveError, match=r"without hard links \(Operation not permitted\).*exFAT"):
        Archive.create_or_open(str(tmp_path / "new"), RECIPE, VECTOR_SIZE)
    assert list((tmp_path / "new").iterdir()) == []
    with made.held():
        pass
    shutil.copytree(tmp_path / "good", tmp_path / "moved")
    # Another disk at the same place, with a copy.
    (tmp_path / "good").rename(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "good")
    for name in ("moved", "good"):
        archive = Archive.open(str(tmp_path / name))
        with pytest.raises(ArchiveError, match="without hard links"), archive.held():
            pass


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a%", "a b", "ä:&'\"", "s3:a", "[a]*"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    made = Archive.create_or_open(str(tmp_path / name), RECIPE, VECTOR_SIZE)
    with made.held():
        made.sweep()
        made.commit(write_rows(made.uri, rows(0)))
        made.commit(write_rows(made.uri, rows(1)))
        made.put_videos(video_table(0))
        made.compact()
        made.update_indexes(at_once=True)
    reader = Archive.open(str(tmp_path / name))
    assert reader.completed_segments() == {segment(0), segment(1)}
    assert reader.table("annotations").search("square", query_type="fts").to_arrow().num_rows == 2
    assert status(reader).tables["segments"].rows == 2
    assert len(list(reader.memory_tokens([segment(0), segment(1)]))) == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("character", ["\n", "\t", "\r", "\x7f"])
def test_control_characters_are_refused_by_a_sentence(tmp_path: Path, character: str) -> None:
    for opened in (Archive.open, lambda place: Archive.create_or_open(place, RECIPE, VECTOR_SIZE)):
        with pytest.raises(ArchiveError, match="control character"):
            opened(str(tmp_path / f"a{character}b"))
    assert list(tmp_path.iterdir()) == []
