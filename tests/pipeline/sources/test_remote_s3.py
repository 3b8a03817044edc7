"""Sources in S3, from a real server that refuses, stumbles and hangs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import boto3
import pytest
from support.http_server import Reply, WebServer, serving
from support.object_store import ObjectStore, running
from support.sources_listed import AWAY, DENIED, QUICK, error, listed, only, uris

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources import backends, folders
from malmm.pipeline.sources.listing import SourceFile, is_gone, list_sources


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "PATIENCE", QUICK)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with running() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.fault = lambda method, path: "ok"
    server.forget()
    return server


def put(store: ObjectStore, *keys: str, body: bytes = b"video") -> list[str]:
    """Store objects; gives the versions of those in a bucket that keeps them."""
    client = boto3.client("s3", endpoint_url=f"http://{store.behind[0]}:{store.behind[1]}")
    versions = [client.put_object(Bucket="films", Key=key, Body=body).get("VersionId", "") for key in keys]
    client.close()
    return versions


@pytest.mark.parametrize(
    ("source", "fault", "page"),
    [
        ("s3://films/big", "403", 0),
        ("s3://films/big", "503", 2),
        ("s3://films/big/*.mp4", "403", 2),
        ("s3://films/big/**/*.mp4", "500", 0),
    ],
)
def test_a_listing_in_s3_that_fails_is_a_failure_and_one_that_stumbles_is_not(
    source: str, fault: str, page: int, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "KEYS_A_PAGE", 2)
    put(store, *(f"big/{number}.mp4" for number in range(7)))
    wanted = [f"s3://films/big/{number}.mp4" for number in range(7)]
    pages: list[str] = []

    def fail(times: int) -> Callable[[str, str], str]:
        pages.clear()

        def rule(method: str, path: str) -> str:
            if "list-type=2" in path and "max-keys=2" in path.lower():
                pages.append(path)
                return fault if page < len(pages) <= page + times else "ok"
            return "ok"

        return rule

    store.fault = fail(2)
    if fault != "403":
        assert uris(source) == wanted
    store.fault = fail(99)
    found = listed(source)
    assert [item.uri for item in found if isinstance(item, SourceFile)] == wanted[: 2 * page]
    assert isinstance(found[-1], SourceError)
    assert (DENIED if fault == "403" else AWAY) in found[-1].message
    store.fault = lambda method, path: "ok"
    assert uris(source) == wanted


def test_a_listing_begins_before_it_ends(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "KEYS_A_PAGE", 2)
    put(store, *(f"lazy/{number:02}.mp4" for number in range(6)))
    for source in ("s3://films/lazy", "s3://films/lazy/*.mp4", "s3://films/lazy/**"):
        store.forget()
        found = list_sources([source])
        assert isinstance(next(found), SourceFile)
        pages = [path for _, path, _ in store.requests if "list-type=2" in path and "max-keys=2" in path]
        assert len(pages) == 1
        assert sum(1 for _ in found) == 5


def test_names_in_s3_are_what_they_are(store: ObjectStore) -> None:
    keys = [
        "k/x//v.mp4",
        "k//w.mp4",
        "k/a b.mp4",
        "k/[1].mp4",
        "k/é?.mp4",
        "k/100%.mp4",
        "k/c::d.mp4",
        "k/z/deep/v.mkv",
    ]
    put(store, *keys, "k/.hidden/v.mp4", "k/notes.txt", "k/.v.mp4", "k/folder.mp4/")
    wanted = [f"s3://films/{key}" for key in sorted(keys)]
    assert uris("s3://films/k") == uris("s3://films/k/") == wanted
    for key in keys:
        assert uris(f"s3://films/{key}") == [f"s3://films/{key}"]
    assert uris("s3://films/k/[[]*.mp4") == ["s3://films/k/[1].mp4"]
    assert uris("s3://films/k/*/deep/*.mkv") == ["s3://films/k/z/deep/v.mkv"]
    assert only("s3://films/k/a b.mp4") == next(
        item for item in listed("s3://films/k") if item.uri.endswith("a b.mp4")
    )


def test_versions_in_s3_are_files_of_their_own(store: ObjectStore) -> None:
    client = boto3.client("s3", endpoint_url=f"http://{store.behind[0]}:{store.behind[1]}")
    client.put_bucket_versioning(Bucket="films", VersioningConfiguration={"Status": "Enabled"})
    try:
        (one,), (two,) = put(store, "v.mp4", body=b"one"), put(store, "v.mp4", body=b"other")
        sources = [f"s3://films/v.mp4?versionId={version}" for version in (one, two)]
        found = listed(*sources, "s3://films/v.mp4")
    finally:
        client.put_bucket_versioning(Bucket="films", VersioningConfiguration={"Status": "Suspended"})
        client.close()
    assert [item.uri for item in found] == [*sources, "s3://films/v.mp4"]
    assert [item.size_bytes for item in found if isinstance(item, SourceFile)] == [3, 5, 5]
    assert len({item.fingerprint for item in found if isinstance(item, SourceFile)}) == 2


def test_settings_of_s3_that_cannot_be_cost_one_source(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a.mp4")
    from s3fs import S3FileSystem

    wrong = {
        "no credentials": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"},
        "no such profile": {"AWS_PROFILE": "nobody"},
        "no such endpoint": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    }  # fmt: skip
    said = {"no credentials": DENIED, "no such profile": "nobody", "no such endpoint": "after 3 tries"}
    for name, settings in wrong.items():
        with monkeypatch.context() as patch:
            for key, value in settings.items():
                patch.setenv(key, value) if value else patch.delenv(key)
            patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
            S3FileSystem.clear_instance_cache()
            for source in ("s3://films/a.mp4", "s3://films/", "s3://films/*.mp4", "s3://films/a.csv"):
                assert said[name] in error(source), name
            assert not is_gone("s3://films/a.mp4")
        S3FileSystem.clear_instance_cache()
    assert "may not" in error("s3://Not_A_Bucket!/a.mp4") or "cannot be" in error("s3://Not_A_Bucket!/a.mp4")
    assert uris("s3://films/a.mp4") == ["s3://films/a.mp4"]


def test_a_store_that_never_answers_is_given_up_in_time(
    web: WebServer, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "PATIENCE", replace(QUICK, attempts=2, answer_s=0.3, page_s=0.4))
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)
    web.rule = lambda method, path, before: Reply(silent=True)
    for source in ("s3://films/a.mp4", "s3://films/k/", "s3://films/*.mp4"):
        assert "after 2 tries: no answer within 0.3 s" in error(source)
