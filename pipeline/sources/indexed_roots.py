"""Record of the folders and prefixes that users indexed, kept on this machine and outside of the archive.

An archive may have been written by somebody else, so addresses in its rows are not trusted. ``malmm index`` records
here which folders and prefixes its user named. A server without ``--media-root`` reads video files only below these.
A manifest may have been written by somebody else, too: it stands for the files that it lists, never for their folders.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.local import local_path
from malmm.pipeline.sources.manifests import MANIFEST_EXTENSIONS, read_manifest
from malmm.pipeline.sources.source_file import VIDEO_EXTENSIONS

__all__ = ["remember_roots", "remembered_roots", "roots_of"]

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HTTP = ("http://", "https://")
_MOST_ROOTS = 10_000
_OTHERS_MAY_WRITE = 0o022


def roots_of(sources: Sequence[str]) -> list[str]:
    """The folders, prefixes and files that the sources of a run name, sorted, each once.

    The root of a file or directory is itself, that of a glob the part before its first wildcard. The roots of a
    manifest of at most 10,000 rows are its files, a longer one has none. Local roots are absolute paths. Leaves out the
    root of a whole file system or scheme.
    """
    found: set[str] = set()
    for source in sources:
        if source.lower().endswith(MANIFEST_EXTENSIONS) and not glob.has_magic(source):
            listed = list(islice(_listed(_resolved(source)), _MOST_ROOTS + 1))
            found.update(listed if len(listed) <= _MOST_ROOTS else ())
        else:
            found.add(_resolved(_fixed_part(source)))
    return sorted(root for root in found if root.rstrip("/") and not root.endswith("://"))


def remember_roots(archive: str, roots: Iterable[str]) -> bool:
    """Add roots to the record of the archive at a resolved address. Returns False if the record cannot be written.

    The record is optional: a machine without a home directory indexes without it, and its user gives ``--media-root``
    to the server.
    """
    path = _record(archive)
    # Where there are too many, those of earlier runs stay.
    known = dict.fromkeys([*remembered_roots(archive), *roots])
    content = {"archive": archive, "roots": sorted(islice(known, _MOST_ROOTS))}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made with mode 0600.
        handle, made = tempfile.mkstemp(prefix=".roots-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        Path(made).replace(path)
    except OSError:
        return False
    return True


def remembered_roots(archive: str) -> tuple[str, ...]:
    """The roots recorded for the archive at a resolved address; empty if there is no record.

    Ignores a record that another user owns or may write.
    """
    path = _record(archive)
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or status.st_mode & _OTHERS_MAY_WRITE:
                return ()
            content = json.load(file)
    except (OSError, ValueError):
        return ()
    roots = content.get("roots") if isinstance(content, dict) and content.get("archive") == archive else None
    if not isinstance(roots, list):
        return ()
    return tuple(root for root in roots if isinstance(root, str))


def _record(archive: str) -> Path:
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home raises where there is none
    state = Path(os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state")
    name = hashlib.blake2b(archive.encode(), digest_size=12).hexdigest()
    return state / "malmm" / "media-roots" / f"{name}.json"


def _listed(manifest: str) -> Iterator[str]:
    """The files with a video's extension that a manifest lists: a row may name a prefix, or a file with secrets."""
    for row in read_manifest(manifest):
        if isinstance(row, SourceError):
            continue
        address = _without_query(_resolved(row.uri))
        is_folder = not _REMOTE.match(address) and Path(address).is_dir()
        if address.lower().endswith(VIDEO_EXTENSIONS) and not is_folder:
            yield address


def _resolved(source: str) -> str:
    """An address with a scheme as it is; an absolute path for local files."""
    return source if _REMOTE.match(source) and not source.startswith("file://") else local_path(source)


def _fixed_part(source: str) -> str:
    """The part before the first wildcard, up to a slash. In a web address `?` begins the query and is no wildcard."""
    if source.startswith(_HTTP):
        address = _without_query(source)
        return _parent(re.split(r"[*\[]", address, maxsplit=1)[0]) if glob.has_magic(address) else address
    if not glob.has_magic(source):
        return source
    return _parent(re.split(r"[*?\[]", source, maxsplit=1)[0])


def _without_query(address: str) -> str:
    """A web address without its query and fragment; any other address as it is."""
    return re.split(r"[?#]", address, maxsplit=1)[0] if address.startswith(_HTTP) else address


def _parent(address: str) -> str:
    """The parent folder of an address, with its slash."""
    address = _without_query(address)
    scheme = _REMOTE.match(address)
    end = address.rfind("/") + 1
    return address if scheme and end <= scheme.end() else address[:end]
