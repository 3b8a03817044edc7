"""List the files that sources name: files, directories, globs, manifests and any URI that fsspec opens."""

# os.path, not pathlib: it takes out `..` without resolving links, and a walk over millions of files stays cheap.
# ruff: noqa: PTH114, PTH116, PTH118

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.backend_errors import PASSING
from malmm.pipeline.sources.backends import ONCE, BackendFailure, open_backend, patiently
from malmm.pipeline.sources.folders import look
from malmm.pipeline.sources.local import list_local, local_file, local_path, shown
from malmm.pipeline.sources.manifests import MANIFEST_EXTENSIONS, Listed, read_manifest
from malmm.pipeline.sources.prefetch import in_order
from malmm.pipeline.sources.remote import list_remote, look_at_file
from malmm.pipeline.sources.source_file import VIDEO_EXTENSIONS, SourceFile

__all__ = ["VIDEO_EXTENSIONS", "SourceFile", "is_gone", "list_sources", "which_are_gone"]

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
# So many files in a row that a store gives no answer for.
_UNANSWERED = 8


def list_sources(sources: Sequence[str]) -> Iterator[SourceFile | SourceError]:
    """Yield the files that the sources name, each once, in a stable order, as they are listed.

    A source is a file (with any extension), a directory (its videos at any depth, without hidden ones), a glob with
    ``*``, ``?``, ``[...]`` and ``**``, a URI with ``file://`` or any scheme that fsspec opens, or a manifest
    (``malmm.pipeline.sources.manifests``), recognised by its extension. A source or folder that cannot be listed yields
    a SourceError as a value, whatever exception the backend raised, and the listing goes on.
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
            yield found if isinstance(found, SourceFile) else _encodable(found)


def _encodable(error: SourceError) -> SourceError:
    """The error with text that can be stored: bytes of names that are not UTF-8 are replaced."""
    try:
        error.uri.encode()
        error.message.encode()
    except UnicodeEncodeError:
        return SourceError(shown(error.message), uri=shown(error.uri))
    return error


def is_gone(uri: str) -> bool:
    """Whether a file certainly does not exist any more. False if its address cannot be reached."""
    return _why_not_there(uri) == "missing"


def which_are_gone(addresses: Mapping[str, str]) -> dict[str, str]:
    """The items whose address ``is_gone``.

    Looks at many addresses at once, as a store takes 50 ms for each. A store that failed many times in a row is asked
    no more: a server that is down costs a minute, not 20 s for each of its files.
    """
    silent: Counter[str] = Counter()

    def is_missing(uri: str) -> bool:
        store = uri.partition("://")[2].partition("/")[0]
        if store and silent[store] >= _UNANSWERED:
            return False
        why = _why_not_there(uri)
        silent[store] = silent[store] + 1 if why in PASSING else 0
        return why == "missing"

    gone = in_order(is_missing, addresses.values())
    return {key: uri for (key, uri), missing in zip(addresses.items(), gone, strict=True) if missing}


def _why_not_there(uri: str) -> str | None:
    """Why an address cannot be looked at, one of ``backend_errors.KINDS``; None if it can."""
    try:
        if not _is_remote(uri):
            os.stat(local_path(uri))
            return None
        backend = open_backend(uri)
        # One try: a transient failure does not mean that a file is gone, and there may be thousands to check.
        patiently(lambda: look(backend, backend.path), ONCE)
        return None
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except (OSError, ValueError):
        return "invalid"
    except BackendFailure as failure:
        return failure.kind


def _is_remote(source: str) -> bool:
    return re.match(_SCHEME, source) is not None and not source.startswith("file://")


def _real_path(uri: str, real_folders: dict[str, str]) -> str:
    """The path with links resolved, so that a file reached twice through links is listed once."""
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
    elif _is_remote(source):
        yield from list_remote(source)
    else:
        yield from list_local(source)


def _list_manifest(source: str) -> Iterator[SourceFile | SourceError]:
    # A request to an object store takes tens of milliseconds, and a manifest may have a hundred thousand rows.
    yield from in_order(_look, read_manifest(source if _is_remote(source) else local_path(source)))


def _look(row: Listed | SourceError) -> SourceFile | SourceError:
    """The file that a row of a manifest names."""
    if isinstance(row, SourceError):
        return row
    found = look_at_file(row.uri) if _is_remote(row.uri) else local_file(row.uri)
    return found if isinstance(found, SourceError) else replace(found, metadata=row.metadata)
