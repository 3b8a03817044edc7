"""List a local path: one file, a folder at any depth, or a glob. Yields while it lists."""

# os.path, not pathlib: it takes out `..` without resolving links, and a walk over millions of files stays cheap.
# ruff: noqa: PTH100, PTH111, PTH112, PTH114, PTH116, PTH118

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from collections.abc import Iterator
from urllib.parse import unquote

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.source_file import VIDEO_EXTENSIONS, SourceFile, without_videos

__all__ = ["list_local", "local_file", "local_path", "shown"]

_FILE_SCHEME = "file://"
_PERCENT = re.compile("%[0-9A-Fa-f]{2}")


def local_path(source: str) -> str:
    """The absolute path of a plain path or a ``file://`` URI, with escapes (``%20``) decoded.

    If the decoded path does not exist but the path as written does, returns that: version 0.1 decoded no escapes.
    """
    path = source
    if source.startswith(_FILE_SCHEME):
        path = source.removeprefix(_FILE_SCHEME)
        path = path.removeprefix("localhost") if path.startswith("localhost/") else path
        if _PERCENT.search(path):
            decoded = unquote(path, errors="surrogateescape")
            path = path if _exists(path) and not _exists(decoded) else decoded
    return os.path.abspath(os.path.expanduser(path))


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def list_local(source: str) -> Iterator[SourceFile | SourceError]:
    """Yield the files of a path. A folder that cannot be listed yields a SourceError."""
    path = local_path(source)
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        # An existing path is taken literally, even with brackets in it; only one that does not exist can be a glob.
        if glob.has_magic(path):
            yield from _list_glob(path)
        elif os.path.islink(path):
            yield SourceError(f"{path} is a link to nothing: repair it or leave it out", uri=path)
        else:
            yield SourceError(f"no such file or directory: {path}", uri=path)
    except (OSError, ValueError) as error:
        yield _unreachable(path, error)
    else:
        if stat.S_ISDIR(found.st_mode):
            yield from _list_directory(path)
        elif stat.S_ISREG(found.st_mode):
            yield _as_source(path, found)
        else:
            yield SourceError(f"{path} is neither a file nor a directory: leave it out", uri=path)


def local_file(source: str) -> SourceFile | SourceError:
    """The one file at a path."""
    path = local_path(source)
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        return _unreachable(path, error)
    if not stat.S_ISREG(found.st_mode):
        return SourceError(f"{path} is not a file: a manifest lists files", uri=path)
    return _as_source(path, found)


def _as_source(path: str, found: os.stat_result) -> SourceFile | SourceError:
    try:
        path.encode()
    except UnicodeEncodeError:
        name = shown(path)
        return SourceError(f"the name of {name} is not valid UTF-8: rename the file", uri=name)
    return SourceFile(path, found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


def shown(path: str) -> str:
    """A path as text that can be stored, with a replacement character for each byte that is not UTF-8."""
    return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in path)


def _unreachable(path: str, error: Exception) -> SourceError:
    return SourceError(f"{path} cannot be reached: {_reason(error)}", uri=path)


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
        yield without_videos(top, others)


def _names(directory: str) -> list[tuple[str, bool]]:
    """Names in a directory, sorted, and whether each is a directory (a link to one is not)."""
    with os.scandir(directory) as scan:
        return sorted((entry.name, _is_folder(entry)) for entry in scan)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _not_listed(directory: str, error: OSError) -> SourceError:
    way_out = "; give this user permission to read it" if isinstance(error, PermissionError) else ""
    return SourceError(f"{directory} cannot be listed: {_reason(error)}{way_out}", uri=directory)


def _walk(directory: str, above: frozenset[tuple[int, int]]) -> Iterator[SourceFile | SourceError | None]:
    """Yield videos below a directory in sorted order; None for every other file. ``above`` are the parent directories
    by device and inode: a link back to one of them is a loop."""
    try:
        here = os.stat(directory)
        names = [(name, is_folder) for name, is_folder in _names(directory) if not name.startswith(".")]
    except OSError as error:
        yield _not_listed(directory, error)
        return
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    for name, is_folder in names:
        path = os.path.join(directory, name)
        try:
            found = os.stat(path)
        except OSError as error:
            if is_folder or name.lower().endswith(VIDEO_EXTENSIONS):
                yield _unreachable(path, error)
            continue
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(path, above | {identity})
        elif stat.S_ISREG(found.st_mode):
            yield _as_source(path, found) if name.lower().endswith(VIDEO_EXTENSIONS) else None


def _list_glob(pattern: str) -> Iterator[SourceFile | SourceError]:
    """Yield the files of a glob. One that ends in a wildcard selects only videos; one that ends in an extension or a
    name selects every file with it. Matching directories are listed as directories, unless ``**`` enters them."""
    videos_only = pattern[-1] in "*?]"
    matches = others = 0
    parts = pattern.split("/")[1:]
    for path in _matching("/", parts, frozenset()):
        if isinstance(path, SourceError):
            matches += 1
            yield path
            continue
        try:
            found = os.stat(path)
        except OSError as error:
            matches += 1
            yield _unreachable(path, error)
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
            yield _as_source(path, found)
    if not matches:
        yield (
            without_videos(pattern, others)
            if others
            else SourceError(f"no file matches {pattern}", uri=pattern)
        )


def _matching(
    folder: str, parts: list[str], above: frozenset[tuple[int, int]]
) -> Iterator[str | SourceError]:
    """Yield paths below a folder that match the patterns, one for each level, in sorted order. With several ``**`` a
    path may come twice. Not ``glob.iglob``, which skips folders that it cannot list without a word."""
    part, *rest = parts
    if not glob.has_magic(part):
        path = os.path.join(folder, part)
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            if not rest and os.path.islink(path):
                yield path
            return
        except OSError as error:
            yield _unreachable(path, error)
            return
        if not rest:
            yield path
        elif is_folder:
            yield from _matching(path, rest, above)
        return
    try:
        here = os.stat(folder)
        names = _names(folder)
    except OSError as error:
        yield _not_listed(folder, error)
        return
    deep, hidden = part == "**", part.startswith(".")
    if deep:
        # `**` matches zero folders (the rest of the pattern is tried here) or any entry.
        if (here.st_dev, here.st_ino) in above:
            return
        above |= {(here.st_dev, here.st_ino)}
        if rest:
            yield from _matching(folder, rest, frozenset())
    fits = re.compile(fnmatch.translate(part)).match
    for name, is_folder in names:
        if (name.startswith(".") and not hidden) or not (deep or fits(name)):
            continue
        path = os.path.join(folder, name)
        is_folder = is_folder or os.path.isdir(path)
        if deep and is_folder:
            yield from _matching(path, parts, above)
        elif not rest:
            yield path
        elif is_folder and not deep:
            yield from _matching(path, rest, frozenset())
