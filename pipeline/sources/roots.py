"""Where the videos of an archive come from: a record that stays on this machine, outside of the archive.

Anyone may have written an archive, so the addresses in its rows are claims. ``malmm index`` notes here which folders
and prefixes its user named. A server without ``--media-root`` reads video files below these and nowhere else.
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

    A file or directory is its own root, a glob's root is what comes before its first wildcard, and a manifest's roots
    are the folders of the videos it lists. Local roots are absolute paths. The root of a whole file system or a whole
    scheme is left out.
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
    """Add to the record of the archive at a resolved address. Returns False where the record cannot be written.

    The record is for convenience: a machine without a home directory indexes without it, and its user names
    ``--media-root``.
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
    """The roots recorded for the archive at a resolved address; none where there is no record.

    A record that another user owns or may write counts as none.
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
    """What comes before the first wildcard, up to a slash. A `?` of a web address begins its query instead."""
    if source.startswith(_HTTP):
        address = re.split(r"[?#]", source, maxsplit=1)[0]
        return _parent(re.split(r"[*\[]", address, maxsplit=1)[0]) if glob.has_magic(address) else address
    if not glob.has_magic(source):
        return source
    return _parent(re.split(r"[*?\[]", source, maxsplit=1)[0])


def _parent(address: str) -> str:
    """The folder that holds an address, with its slash."""
    if address.startswith(_HTTP):
        address = re.split(r"[?#]", address, maxsplit=1)[0]
    scheme = _REMOTE.match(address)
    end = address.rfind("/") + 1
    return address if scheme and end <= scheme.end() else address[:end]
