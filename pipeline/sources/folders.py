"""List a remote folder, page by page, for each kind of backend.

S3 is listed by requests of our own: fsspec collects all pages of a folder before it returns the first, and loses keys
with an empty part (``k//v.mp4``). Over HTTP a folder is a page of links. All other backends are listed by fsspec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import HTTP, ONCE, S3, Backend, patiently
from malmm.pipeline.sources.http_files import look_at, page_links

__all__ = ["Entry", "entries_below", "entries_of", "look"]

KEYS_A_PAGE = 1000


@dataclass(frozen=True)
class Entry:
    """A file or folder. ``path`` is the backend's path, a folder's with a slash at its end; ``info`` is None if size
    and time of the file must still be requested."""

    path: str
    is_folder: bool
    info: dict[str, Any] | None = None


def look(backend: Backend, path: str) -> dict[str, Any]:
    """fsspec's ``info`` of a path. May raise any exception of the library: call it through ``patiently``."""
    if backend.protocol in HTTP:
        return look_at(backend.filesystem, path, limit_s=backends.PATIENCE.answer_s)
    return backend.call("info", path, limit_s=backends.PATIENCE.answer_s)


def entries_of(backend: Backend, folder: str, stem: str = "") -> Iterator[Entry]:
    """Yield the entries of one folder whose names begin with ``stem``: S3's in the order of its keys, others sorted.

    Raises BackendFailure, possibly after some entries.
    """
    if _is_s3(backend):
        yield from _keys(backend, folder, stem, delimiter="/")
        return
    if backend.protocol in HTTP:
        links = patiently(lambda: page_links(backend.filesystem, folder, limit_s=backends.PATIENCE.page_s))
        entries = [Entry(link, link.partition("?")[0].endswith("/")) for link in links]
    else:
        entries = _listed(backend, folder)
    for entry in entries:
        if entry.path.rstrip("/").rpartition("/")[2].startswith(stem):
            yield entry


def entries_below(backend: Backend, folder: str, stem: str = "") -> Iterator[Entry] | None:
    """All files at any depth in one listing, or None for a backend that lists folder by folder."""
    return _keys(backend, folder, stem, delimiter="") if _is_s3(backend) else None


def _is_s3(backend: Backend) -> bool:
    return backend.protocol in S3 and hasattr(backend.filesystem, "call_s3")


def _keys(backend: Backend, folder: str, stem: str, delimiter: str) -> Iterator[Entry]:
    # The name of a bucket may contain slashes: that of an access point does.
    bucket = str(patiently(lambda: backend.filesystem.split_path(folder)[0], ONCE))
    prefix = folder[len(bucket) + 1 :]
    if prefix.strip("/") and not prefix.endswith("/"):
        prefix += "/"
    request = {"Bucket": bucket, "Prefix": prefix + stem, "Delimiter": delimiter, "MaxKeys": KEYS_A_PAGE}
    token: str | None = ""
    while token is not None:
        if token:
            request["ContinuationToken"] = token
        entries, token = patiently(lambda: _page_of_keys(backend, bucket, request))
        yield from entries


def _page_of_keys(backend: Backend, bucket: str, request: dict[str, Any]) -> tuple[list[Entry], str | None]:
    """One page of keys, sorted, and the token of the next page; None for the last."""
    page = backend.call("call_s3", "list_objects_v2", limit_s=backends.PATIENCE.page_s, **request)
    folders = [Entry(f"{bucket}/{part['Prefix']}", True) for part in page.get("CommonPrefixes", [])]
    files = [
        Entry(f"{bucket}/{key['Key']}", False, {**key, "name": f"{bucket}/{key['Key']}"})
        for key in page.get("Contents", [])
        if not key["Key"].endswith("/")
    ]
    token = page["NextContinuationToken"] if page.get("IsTruncated") else None
    if token is not None and token in ("", request.get("ContinuationToken")):
        raise ValueError("the store repeats a page of its listing")
    return sorted(files + folders, key=lambda entry: entry.path), token


def _listed(backend: Backend, folder: str) -> list[Entry]:
    """A folder by fsspec's ``ls``, sorted, without the folder itself."""
    here = folder.rstrip("/")

    def ask() -> list[Entry]:
        entries = []
        for info in backend.call("ls", here or folder, detail=True):
            path = str(info["name"])
            is_folder = info.get("type") == "directory"
            if path.rstrip("/") == here or (path.endswith("/") and not is_folder):
                continue
            entries.append(Entry(f"{path.rstrip('/')}/" if is_folder else path, is_folder, dict(info)))
        return sorted(entries, key=lambda entry: entry.path)

    return patiently(ask)
