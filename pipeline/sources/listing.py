"""Listing the videos of an archive: files, directories, globs and the addresses that fsspec knows."""

# os.path, not pathlib: it takes out `..` without resolving links, and a walk over millions of files stays cheap.
# ruff: noqa: PTH100, PTH111, PTH114, PTH116, PTH118, PTH207

from __future__ import annotations

import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import fsspec

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.manifests import MANIFEST_EXTENSIONS, Listed, read_manifest

__all__ = ["VIDEO_EXTENSIONS", "SourceFile", "is_gone", "list_sources"]

VIDEO_EXTENSIONS = (
    ".mp4", ".mkv", ".mov", ".webm", ".avi", ".m4v", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv",
    ".ogv", ".3gp", ".vob", ".mxf", ".asf", ".h264", ".h265", ".hevc", ".264", ".265", ".ivf", ".divx",
)  # fmt: skip


_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_LOOKS_AT_ONCE, _ROWS_AT_ONCE = 32, 1024


@dataclass(frozen=True)
class SourceFile:
    """A file to index. ``uri`` is the absolute path of a local file, symbolic links kept, or an address
    with its scheme; ``fingerprint`` changes when the content does. ``metadata`` is what a manifest says of it, a JSON
    object, or empty."""

    uri: str
    size_bytes: int
    fingerprint: str
    metadata: str = ""


def list_sources(sources: Sequence[str]) -> Iterator[SourceFile | SourceError]:
    """The files that the sources name, one by one and each once, in a stable order.

    A source is a file (taken whatever its extension), a directory (its videos at any depth, hidden ones
    left out), a glob with ``*``, ``?``, ``[...]`` and ``**``, ``file://`` and any scheme that fsspec opens, or a
    manifest (``malmm.pipeline.sources.manifests``), known by its extension.
    What cannot be listed is given as a SourceError value in its place, and the rest goes on.
    """
    given: set[str] = set()
    real_folders: dict[str, str] = {}
    for source in sources:
        for found in _list_one(source):
            if isinstance(found, SourceFile):
                identity = _real_path(found.uri, real_folders)
                if identity in given:
                    continue
                given.add(identity)
            yield found


def is_gone(uri: str) -> bool:
    """Whether nothing is at an address any more, as far as can be told: what cannot be reached is not gone."""
    try:
        if uri.startswith("/"):
            os.stat(uri)
            return False
        filesystem, path = fsspec.core.url_to_fs(uri)
        filesystem.info(path)
        return False
    except (FileNotFoundError, NotADirectoryError) as error:
        # Over HTTP, fsspec calls a server that does not answer a file that is not there.
        return not uri.startswith("http") or getattr(error.__cause__, "status", None) in (404, 410)
    except (OSError, ValueError, ImportError):
        return False


def _real_path(uri: str, real_folders: dict[str, str]) -> str:
    """Where a file really lies, so that one reached twice through links is known."""
    if not uri.startswith("/"):
        return uri
    if os.path.islink(uri):
        return os.path.realpath(uri)
    folder, name = os.path.split(uri)
    if folder not in real_folders:
        real_folders[folder] = os.path.realpath(folder)
    return os.path.join(real_folders[folder], name)


def _list_one(source: str) -> Iterator[SourceFile | SourceError]:
    if not source:
        yield SourceError("a source is empty: name a file, a directory or a glob", uri=source)
    elif source.lower().endswith(MANIFEST_EXTENSIONS) and not glob.has_magic(source):
        yield from _list_manifest(source)
    elif source.startswith("file://"):
        yield from _list_local(source.removeprefix("file://"))
    elif re.match(_SCHEME, source):
        yield from _list_remote(source)
    else:
        yield from _list_local(source)


def _list_manifest(source: str) -> Iterator[SourceFile | SourceError]:
    manifest = source.removeprefix("file://")
    if not re.match(_SCHEME, manifest):
        manifest = os.path.abspath(os.path.expanduser(manifest))
    rows = read_manifest(manifest)
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        # A look at an object store takes tens of milliseconds, and a manifest may have a hundred thousand rows.
        while part := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            yield from pool.map(_look, part)


def _look(row: Listed | SourceError) -> SourceFile | SourceError:
    """The one file that a row of a manifest names."""
    if isinstance(row, SourceError):
        return row
    if re.match(_SCHEME, row.uri) and not row.uri.startswith("file://"):
        found = _remote_one(row.uri)
    else:
        path = os.path.abspath(os.path.expanduser(row.uri.removeprefix("file://")))
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            return SourceError(f"{path} cannot be reached: {_reason(error)}", uri=path)
        if not stat.S_ISREG(status.st_mode):
            return SourceError(f"{path} is not a file: a manifest lists files", uri=path)
        found = _local_file(path, status)
    return found if isinstance(found, SourceError) else replace(found, metadata=row.metadata)


def _remote_one(uri: str) -> SourceFile | SourceError:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        info = filesystem.info(path)
    except FileNotFoundError:
        return SourceError(f"no such file or directory: {uri}", uri=uri)
    except (OSError, ValueError, ImportError) as error:
        return SourceError(f"{uri} cannot be reached: {_reason(error)}", uri=uri)
    if info.get("type") != "file":
        return SourceError(f"{uri} is not a file: a manifest lists files", uri=uri)
    return _remote_file(filesystem, info)


def _list_local(source: str) -> Iterator[SourceFile | SourceError]:
    path = os.path.abspath(os.path.expanduser(source))
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        # A path that exists is meant literally, brackets and all; only one that does not can be a glob.
        if glob.has_magic(path):
            yield from _list_glob(path)
        elif os.path.islink(path):
            yield SourceError(f"{path} is a link to nothing: repair it or leave it out", uri=path)
        else:
            yield SourceError(f"no such file or directory: {path}", uri=path)
    except (OSError, ValueError) as error:
        yield SourceError(f"{path} cannot be reached: {_reason(error)}", uri=path)
    else:
        if stat.S_ISDIR(found.st_mode):
            yield from _list_directory(path)
        elif stat.S_ISREG(found.st_mode):
            yield _local_file(path, found)
        else:
            yield SourceError(f"{path} is neither a file nor a directory: leave it out", uri=path)


def _local_file(path: str, found: os.stat_result) -> SourceFile | SourceError:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="replace")
        return SourceError(f"the name of {shown} is not valid UTF-8: rename the file", uri=shown)
    return SourceFile(path, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _list_directory(top: str) -> Iterator[SourceFile | SourceError]:
    videos = others = failures = 0
    for found in _walk(top, frozenset()):
        if found is None:
            others += 1
            continue
        failures += isinstance(found, SourceError)
        videos += isinstance(found, SourceFile)
        yield found
    if not videos and not failures:
        yield _without_videos(top, others)


def _without_videos(top: str, others: int) -> SourceError:
    if not others:
        return SourceError(f"{top} is empty: it holds no file", uri=top)
    holds = "1 file but not one with a" if others == 1 else f"{others} files but none with a"
    extensions = ", ".join(VIDEO_EXTENSIONS)
    return SourceError(
        f"{top} holds {holds} video extension ({extensions}): name files to take them", uri=top
    )


def _walk(directory: str, above: frozenset[tuple[int, int]]) -> Iterator[SourceFile | SourceError | None]:
    """Videos below a directory in sorted order; None for every other file. ``above`` are the directories
    on the way here, by device and inode: a link back to one of them is a loop."""
    try:
        here = os.stat(directory)
        with os.scandir(directory) as scan:
            names = sorted(entry.name for entry in scan if not entry.name.startswith("."))
    except OSError as error:
        yield SourceError(
            f"{directory} cannot be listed: {_reason(error)}; give this user permission to read it",
            uri=directory,
        )
        return
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    for name in names:
        path = os.path.join(directory, name)
        try:
            found = os.stat(path)
        except OSError as error:
            if name.lower().endswith(VIDEO_EXTENSIONS):
                yield SourceError(f"{path} cannot be reached: {_reason(error)}", uri=path)
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(path, above | {identity})
        elif stat.S_ISREG(found.st_mode):
            yield _local_file(path, found) if name.lower().endswith(VIDEO_EXTENSIONS) else None


def _list_glob(pattern: str) -> Iterator[SourceFile | SourceError]:
    """A glob that ends in a wildcard means the videos that it matches; one that ends in an extension or a
    name means every file with it. Directories that match count as directories, unless ``**`` enters them."""
    videos_only = pattern[-1] in "*?]"
    matches = others = 0
    for path in sorted({os.path.normpath(path) for path in glob.iglob(pattern, recursive=True)}):
        try:
            found = os.stat(path)
        except OSError as error:
            yield SourceError(f"{path} cannot be reached: {_reason(error)}", uri=path)
            continue
        if stat.S_ISDIR(found.st_mode):
            if "**" not in pattern:
                matches += 1
                yield from _list_directory(path)
        elif stat.S_ISREG(found.st_mode):
            if videos_only and not path.lower().endswith(VIDEO_EXTENSIONS):
                others += 1
                continue
            matches += 1
            yield _local_file(path, found)
    if not matches:
        yield (
            _without_videos(pattern, others)
            if others
            else SourceError(f"no file matches {pattern}", uri=pattern)
        )


def _list_remote(source: str) -> Iterator[SourceFile | SourceError]:
    scheme = source.partition("://")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
        if filesystem.isfile(path):
            yield _remote_file(filesystem, filesystem.info(path))
            return
        if filesystem.isdir(path):
            yield from _list_remote_directory(filesystem, path, source)
            return
        matches = filesystem.glob(path, detail=True) if glob.has_magic(path) else {}
        files = [info for _, info in sorted(matches.items()) if info["type"] == "file"]
        if not files:
            what = "no file matches" if glob.has_magic(path) else "no such file or directory:"
            yield SourceError(f"{what} {source}", uri=source)
        for info in files:
            yield _remote_file(filesystem, info)
    except ImportError as error:
        yield SourceError(f"{source}: the scheme {scheme}:// needs a package: {error}", uri=source)
    except (OSError, ValueError) as error:
        yield SourceError(f"{source} cannot be listed: {_reason(error)}", uri=source)


def _list_remote_directory(filesystem: Any, top: str, source: str) -> Iterator[SourceFile | SourceError]:
    videos = others = 0
    for directory, directories, files in filesystem.walk(top, detail=True):
        # The walk goes where this mapping, which it shares, still leads.
        for name in [name for name in directories if name.startswith(".")]:
            del directories[name]
        for name in sorted(files):
            if name.startswith(".") or not name:
                continue
            if not name.lower().endswith(VIDEO_EXTENSIONS):
                others += 1
                continue
            videos += 1
            yield _remote_file(filesystem, {**files[name], "name": f"{directory.rstrip('/')}/{name}"})
    if not videos:
        yield _without_videos(source, others)


def _remote_file(filesystem: Any, info: dict[str, Any]) -> SourceFile:
    size_bytes = int(info.get("size") or 0)
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    changed = next((info[key] for key in ("LastModified", "mtime", "updated", "created") if key in info), "")
    fingerprint = str(tag).strip('"') if tag else f"{size_bytes}-{changed}"
    return SourceFile(filesystem.unstrip_protocol(info["name"]), size_bytes, fingerprint)
