"""Record of the folders and prefixes that users indexed, kept on this machine and outside of the archive.

An archive may have been written by somebody else, so addresses in its rows are not trusted. ``malmm index`` records
here which folders and prefixes its user named. A server without ``--media-root`` reads video files only below these.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.manifests import MANIFEST_EXTENSIONS, read_manifest

__all__ = ["remember_roots", "remembered_roots", "roots_of"]

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HTTP = ("http://", "https://")
_MOST_ROOTS = 10_000
_OTHERS_MAY_WRITE = 0o022


def roots_of(sources: Sequence[str]) -> list[str]:
    """The folders, prefixes and files that the sources of a run name, sorted, each once.

    The root of a file or directory is itself, that of a glob the part before its first wildcard, and those of a
    manifest the folders of its videos. Local roots are absolute paths. Leaves out the root of a whole file system or
    scheme.
    """
    found: set[str] = set()
    for source in sources:
        local = unquote(source.removeprefix("file://")) if source.startswith("file://") else source
        if source.lower().endswith(MANIFEST_EXTENSIONS) and not glob.has_magic(source):
            place = local if _REMOTE.match(local) else _absolute(local)
            found.update(
                _parent(row.uri if _REMOTE.match(row.uri) else _absolute(row.uri))
                for row in read_manifest(place)
                if not isinstance(row, SourceError)
            )
        else:
            found.add(_fixed_part(local) if _REMOTE.match(local) else _absolute(_fixed_part(local)))
    return sorted(root for root in found if root.rstrip("/") and not root.endswith("://"))


def remember_roots(archive: str, roots: Iterable[str]) -> bool:
    """Add roots to the record of the archive at a resolved address. Returns False if the record cannot be written.

    The record is optional: a machine without a home directory indexes without it, and its user gives ``--media-root``
    to the server.
    """
    path = _record(archive)
    content = {"archive": archive, "roots": sorted({*remembered_roots(archive), *roots})[:_MOST_ROOTS]}
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


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - Path.resolve would follow links


def _fixed_part(source: str) -> str:
    """The part before the first wildcard, up to a slash. In a web address `?` begins the query and is no wildcard."""
    if source.startswith(_HTTP):
        address = re.split(r"[?#]", source, maxsplit=1)[0]
        return _parent(re.split(r"[*\[]", address, maxsplit=1)[0]) if glob.has_magic(address) else address
    if not glob.has_magic(source):
        return source
    return _parent(re.split(r"[*?\[]", source, maxsplit=1)[0])


def _parent(address: str) -> str:
    """The parent folder of an address, with its slash."""
    if address.startswith(_HTTP):
        address = re.split(r"[?#]", address, maxsplit=1)[0]
    scheme = _REMOTE.match(address)
    end = address.rfind("/") + 1
    return address if scheme and end <= scheme.end() else address[:end]
