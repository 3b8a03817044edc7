"""Fingerprints of files, and each backend's names for a file's size, tag and time.

The names are keys of fsspec's ``info`` and ``ls``. Version 0.1 had one list for all backends. Its choices stay where
they detected changes, so that fingerprints stay the same and no video is indexed again without need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BACKENDS", "Names", "fingerprint_of", "names_of", "size_of", "tag_of"]


@dataclass(frozen=True)
class Names:
    """Keys, in order of preference, of the size in bytes, of a tag that changes with the content, and of the time."""

    size: tuple[str, ...] = ("size",)
    tag: tuple[str, ...] = ("ETag", "etag", "md5Hash")
    time: tuple[str, ...] = ("LastModified", "mtime", "updated")


# For a scheme that is not in the table: every name that a backend of fsspec was found to use.
_OTHERS = Names(
    size=("size", "Size", "file_size", "length"),
    tag=("ETag", "etag", "md5Hash"),
    time=(
        *("LastModified", "mtime", "updated", "modified", "last_modified", "modify", "Last-Modified"),
        *("modificationTime", "modification_time", "modifiedTime", "timeModified", "modified_at"),
        *("server_modified", "last_modified_time", "date_time", "created"),
        *("md5Checksum", "content_hash", "checksum", "sha", "hex", "CRC"),
    ),
)

BACKENDS: dict[tuple[str, ...], Names] = {
    ("http", "https"): Names(tag=("ETag", "Content-MD5", "Digest"), time=("Last-Modified",)),
    ("s3", "s3a"): Names(size=("size", "Size"), tag=("ETag",), time=("LastModified",)),
    ("gs", "gcs"): Names(tag=("etag", "md5Hash", "crc32c"), time=("mtime", "updated", "created")),
    ("abfs", "abfss", "adl", "az"): Names(tag=("etag", "content_md5"), time=("last_modified",)),
    ("ftp", "ftps"): Names(tag=(), time=("modify",)),
    ("sftp", "ssh"): Names(tag=(), time=("mtime",)),
    ("smb",): Names(tag=(), time=("mtime", "last_write_time")),
    ("hdfs", "arrow_hdfs", "local", "file"): Names(tag=(), time=("mtime",)),
    ("webhdfs", "webHDFS"): Names(size=("size", "length"), tag=(), time=("modificationTime",)),
    ("webdav", "webdavs", "dav"): Names(size=("size", "content_length"), tag=("etag",), time=("modified",)),
    ("hf",): Names(tag=("blob_id",), time=()),
    ("github", "git"): Names(tag=("sha", "hex"), time=()),
    ("zip",): Names(size=("size", "file_size"), tag=("CRC",), time=("date_time",)),
    ("memory",): Names(tag=(), time=("created",)),
}


def names_of(protocol: str) -> Names:
    """The names for a scheme's backend; a list of common names for a scheme that is not in the table.

    Of a chain (``simplecache::https``) the names are those of the last scheme.
    """
    protocol = protocol.rpartition("::")[2]
    return next((names for protocols, names in BACKENDS.items() if protocol in protocols), _OTHERS)


def size_of(protocol: str, info: Mapping[str, Any]) -> int | None:
    """The file's size in bytes; None if the backend does not know it."""
    return next((int(info[key]) for key in names_of(protocol).size if info.get(key) is not None), None)


def tag_of(protocol: str, info: Mapping[str, Any]) -> str:
    """The tag of the content without quotes; empty if the backend has none."""
    found = next((info[key] for key in names_of(protocol).tag if info.get(key)), "")
    return str(found).strip('"')


def fingerprint_of(protocol: str, info: Mapping[str, Any]) -> str:
    """A text that changes when the content changes: the tag, else size and time."""
    if tag := tag_of(protocol, info):
        return tag
    changed = next((info[key] for key in names_of(protocol).time if info.get(key) not in (None, "")), "")
    return f"{size_of(protocol, info) or 0}-{changed}"
