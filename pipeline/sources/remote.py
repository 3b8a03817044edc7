"""List a URI with a scheme: one file, a folder at any depth, or a glob. Yields while it lists."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fsspec.utils import glob_translate

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.backends import HTTP, ONCE, Backend, BackendFailure, open_backend, patiently
from malmm.pipeline.sources.fingerprints import fingerprint_of, size_of
from malmm.pipeline.sources.folders import Entry, entries_below, entries_of, look
from malmm.pipeline.sources.prefetch import in_order
from malmm.pipeline.sources.source_file import VIDEO_EXTENSIONS, SourceFile, without_videos

__all__ = ["list_remote", "look_at_file"]

_DEEPEST = 64
_BEFORE_GLOB = frozenset({"missing", "denied", "invalid"})


def list_remote(source: str) -> Iterator[SourceFile | SourceError]:
    """Yield the files of a URI. A folder that cannot be listed yields a SourceError."""
    try:
        backend = open_backend(source)
        # A file system lives as long as its process, and with it the listings that many backends cache.
        patiently(backend.filesystem.invalidate_cache, ONCE)
        try:
            info = patiently(lambda: look(backend, backend.path))
        except BackendFailure as failure:
            # Only a path that does not exist can be a glob; some stores answer "denied" instead of "missing".
            if _magic_in(backend, backend.path) == len(backend.path) or failure.kind not in _BEFORE_GLOB:
                raise
            yield from _described(backend, _glob(backend, source))
            return
        if info.get("type") == "directory":
            top = str(info.get("url") or backend.path)
            yield from _described(backend, _directory(backend, top, source))
        else:
            yield _file(backend, backend.path, info)
    except BackendFailure as failure:
        yield SourceError(failure.sentence(source, deed="listed"), uri=source)


def look_at_file(uri: str) -> SourceFile | SourceError:
    """The one file at a URI."""
    try:
        backend = open_backend(uri)
        info = patiently(lambda: look(backend, backend.path))
    except BackendFailure as failure:
        return SourceError(failure.sentence(uri), uri=uri)
    if info.get("type") != "file":
        return SourceError(f"{uri} is not a file: a manifest lists files", uri=uri)
    return _file(backend, backend.path, info)


def _file(backend: Backend, path: str, info: dict[str, Any]) -> SourceFile | SourceError:
    def describe() -> SourceFile:
        # Keep an object's version, which `info` leaves out of the name.
        name = path if "?versionId=" in path else str(info["name"])
        uri = backend.address_of(name)
        uri.encode()
        size_bytes = size_of(backend.protocol, info)
        fingerprint = fingerprint_of(backend.protocol, info)
        return SourceFile(uri, -1 if size_bytes is None else size_bytes, fingerprint)

    try:
        return patiently(describe, ONCE)
    except BackendFailure as failure:
        return SourceError(failure.sentence(path), uri=path)


def _described(backend: Backend, found: Iterator[Entry | SourceError]) -> Iterator[SourceFile | SourceError]:
    """Entries as files. If a listing has no size and time, requests those of each file, many in parallel."""

    def describe(entry: Entry | SourceError) -> SourceFile | SourceError:
        if isinstance(entry, SourceError):
            return entry
        try:
            info = entry.info
            if info is None:
                info = patiently(lambda: look(backend, entry.path))
        except BackendFailure as failure:
            return SourceError(failure.sentence(entry.path), uri=entry.path)
        return _file(backend, entry.path, info)

    yield from in_order(describe, found) if backend.protocol in HTTP else map(describe, found)


def _directory(backend: Backend, top: str, source: str) -> Iterator[Entry | SourceError]:
    """Yield the videos below a folder, without hidden ones."""
    videos = others = failures = 0
    for found in _below(backend, top):
        if isinstance(found, SourceError):
            failures += 1
            yield found
        elif _is_video(backend, found.entry.path):
            videos += 1
            yield found.entry
        else:
            others += 1
    if not videos and not failures:
        yield without_videos(source, others)


@dataclass(frozen=True)
class _Found:
    """A file, and its path relative to the listed folder."""

    entry: Entry
    below: str


def _below(backend: Backend, top: str) -> Iterator[_Found | SourceError]:
    top = f"{top.rstrip('/')}/" if backend.protocol not in HTTP else top
    flat = entries_below(backend, top)
    if flat is None:
        yield from _walk(backend, top, hidden=False)
        return
    try:
        for entry in flat:
            below = entry.path[len(top) :]
            if not any(part.startswith(".") for part in below.split("/")):
                yield _Found(entry, below)
    except BackendFailure as failure:
        yield _not_listed(backend, top, failure)


def _walk(
    backend: Backend, top: str, *, hidden: bool, stem: str = "", parts: list[str] | None = None
) -> Iterator[_Found | SourceError]:
    """Yield files below a folder, folder by folder. ``parts`` are patterns by depth: a folder is entered only if its
    name matches the pattern of its depth, and files are taken only at the depth of the last pattern."""
    patterns = [re.compile(fnmatch.translate(part)) for part in parts or ()]
    entered: set[str] = set()
    waiting = [(top, "")]
    while waiting:
        folder, above = waiting.pop()
        depth = above.count("/")
        if folder in entered:
            continue
        entered.add(folder)
        if depth > _DEEPEST:
            yield SourceError(
                f"{folder} lies {depth} folders deep: a loop of links, it is not entered", uri=folder
            )
            continue
        folders = []
        try:
            for entry in entries_of(backend, folder, "" if above else stem):
                name = entry.path.rstrip("/").rpartition("/")[2] if entry.path != folder else ""
                if name.startswith(".") and not hidden:
                    continue
                is_last = depth == len(patterns) - 1
                if not entry.is_folder:
                    if not patterns or is_last:
                        yield _Found(entry, above + name)
                elif not patterns or (not is_last and patterns[depth].match(name)):
                    folders.append((entry.path, f"{above}{name}/"))
        except BackendFailure as failure:
            yield _not_listed(backend, folder, failure)
        waiting += reversed(folders)


def _not_listed(backend: Backend, folder: str, failure: BackendFailure) -> SourceError:
    uri = backend.address_of(folder)
    return SourceError(failure.sentence(uri, deed="listed"), uri=uri)


def _glob(backend: Backend, source: str) -> Iterator[Entry | SourceError]:
    """Yield every file that matches a pattern, with any extension."""
    pattern = backend.path
    first = _magic_in(backend, pattern)
    root_end = pattern.rfind("/", 0, first) + 1
    root, stem, rest = pattern[:root_end], pattern[root_end:first], pattern[root_end:]
    if backend.protocol in HTTP:
        rest = rest.replace("?", "[?]")
    try:
        matches = re.compile(patiently(lambda: glob_translate(rest), ONCE))
    except BackendFailure as failure:
        yield SourceError(failure.sentence(source, deed="listed"), uri=source)
        return
    parts = rest.split("/")
    anywhere = "**" in parts
    flat = entries_below(backend, root, stem) if anywhere else None
    if flat is not None:
        found: Iterator[_Found | SourceError] = _flat(backend, root, flat)
    else:
        found = _walk(backend, root, hidden=True, stem=stem, parts=None if anywhere else parts)
    count = 0
    for match in found:
        if isinstance(match, SourceError):
            count += 1
            yield match
        elif matches.match(match.below):
            count += 1
            yield match.entry
    if not count:
        yield SourceError(f"no file matches {source}", uri=source)


def _flat(backend: Backend, root: str, entries: Iterator[Entry]) -> Iterator[_Found | SourceError]:
    try:
        for entry in entries:
            yield _Found(entry, entry.path[len(root) :])
    except BackendFailure as failure:
        yield _not_listed(backend, root, failure)


# In a web address a question mark begins the query, so it is not a wildcard.
_MAGIC = (re.compile(r"[*?[]"), re.compile(r"[*[]"))


def _magic_in(backend: Backend, path: str) -> int:
    """Position of the first wildcard in a path; the path's length if there is none."""
    found = _MAGIC[backend.protocol in HTTP].search(path, _host_end(backend, path))
    return len(path) if found is None else found.start()


def _host_end(backend: Backend, path: str) -> int:
    """End of the host, whose brackets would be an IPv6 address and not a wildcard."""
    if backend.protocol not in HTTP:
        return 0
    slash = path.find("/", path.find("://") + 3)
    return len(path) if slash < 0 else slash


def _is_video(backend: Backend, path: str) -> bool:
    return (path.partition("?")[0] if backend.protocol in HTTP else path).lower().endswith(VIDEO_EXTENSIONS)
