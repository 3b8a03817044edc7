"""Fingerprints change when a file does, and stay those of 0.1 where 0.1 noticed changes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from malmm.pipeline.sources.fingerprints import BACKENDS, fingerprint_of, names_of, size_of

THEN, LATER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)

# What each backend's `info` of a file holds, as its sources have it, and the same of a file that replaced it.
INFOS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "s3": (
        {"ETag": '"1"', "LastModified": THEN, "size": 9, "type": "file", "VersionId": None},
        {"ETag": '"2"', "LastModified": LATER, "size": 9, "type": "file", "VersionId": None},
    ),
    "gs": (
        {"etag": "C1", "md5Hash": "m1", "updated": "u1", "mtime": THEN, "size": 9, "created": "c"},
        {"etag": "C2", "md5Hash": "m2", "updated": "u2", "mtime": LATER, "size": 9, "created": "c"},
    ),
    "abfs": (
        {"etag": "0x1", "last_modified": THEN, "size": 9, "creation_time": THEN},
        {"etag": "0x2", "last_modified": LATER, "size": 9, "creation_time": THEN},
    ),
    "sftp": ({"size": 9, "mtime": THEN, "time": THEN}, {"size": 9, "mtime": LATER, "time": THEN}),
    "smb": ({"size": 9, "mtime": 1.0, "time": 1.0}, {"size": 9, "mtime": 2.0, "time": 1.0}),
    "ftp": ({"size": 9, "modify": "20200101"}, {"size": 9, "modify": "20200102"}),
    "hdfs": ({"size": 9, "mtime": 1}, {"size": 9, "mtime": 2}),
    "webhdfs": ({"size": 9, "modificationTime": 1}, {"size": 9, "modificationTime": 2}),
    "webdav": (
        {"size": 9, "etag": None, "modified": THEN, "created": THEN},
        {"size": 9, "etag": None, "modified": LATER, "created": THEN},
    ),
    "memory": ({"size": 9, "created": THEN}, {"size": 9, "created": LATER}),
    "http": ({"size": 9, "Last-Modified": "one"}, {"size": 9, "Last-Modified": "two"}),
    "https": ({"size": 9, "ETag": '"1"'}, {"size": 9, "ETag": '"2"'}),
    "hf": ({"size": 9, "blob_id": "1"}, {"size": 9, "blob_id": "2"}),
    "github": ({"size": 9, "sha": "1"}, {"size": 9, "sha": "2"}),
    "zip": ({"size": 9, "CRC": 1, "date_time": (2020,)}, {"size": 9, "CRC": 2, "date_time": (2020,)}),
    "simplecache::https": ({"size": 9, "Last-Modified": "one"}, {"size": 9, "Last-Modified": "two"}),
    "gdrive": ({"size": 9, "modifiedTime": "one"}, {"size": 9, "modifiedTime": "two"}),
    "dropbox": ({"size": 9, "server_modified": "one"}, {"size": 9, "server_modified": "two"}),
    "lakefs": ({"size": 9, "mtime": 1, "checksum": "1"}, {"size": 9, "mtime": 2, "checksum": "2"}),
    "of-checksums": ({"size": 9, "checksum": "1"}, {"size": 9, "checksum": "2"}),
    "someone-elses": ({"size": 9, "modified": 1}, {"size": 9, "modified": 2}),
}


def of_version_0_1(info: dict[str, Any]) -> str:
    """The fingerprint of 0.1, for any backend."""
    size_bytes = int(info.get("size") or 0)
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    changed = next((info[key] for key in ("LastModified", "mtime", "updated", "created") if key in info), "")
    return str(tag).strip('"') if tag else f"{size_bytes}-{changed}"


@pytest.mark.parametrize("protocol", INFOS)
def test_a_file_that_changed_has_another_fingerprint(protocol: str) -> None:
    before, after = INFOS[protocol]
    assert fingerprint_of(protocol, before) != fingerprint_of(protocol, after)
    assert size_of(protocol, before) == 9


@pytest.mark.parametrize("protocol", INFOS)
def test_a_fingerprint_of_0_1_that_noticed_changes_is_kept(protocol: str) -> None:
    before, after = INFOS[protocol]
    if of_version_0_1(before) == of_version_0_1(after):
        kept = ("s3", "gs", "abfs", "sftp", "smb", "hdfs", "memory", "https", "lakefs")
        assert protocol not in kept
    else:
        assert fingerprint_of(protocol, before) == of_version_0_1(before)


def test_the_table_names_each_scheme_once() -> None:
    schemes = [scheme for schemes in BACKENDS for scheme in schemes]
    assert len(set(schemes)) == len(schemes)
    assert {"http", "https", "s3", "gs", "az", "sftp", "webdav"} <= set(schemes)
    assert names_of("unheard-of").tag


def test_a_size_that_is_not_known_is_not_none_at_all() -> None:
    assert size_of("http", {"size": None}) is None
    assert size_of("http", {}) is None
    assert size_of("http", {"size": 0}) == 0
