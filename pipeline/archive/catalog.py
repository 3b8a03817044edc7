"""Several archives to work over as one: named one by one, by a glob, or in a catalog file.

A catalog is YAML (JSON is a kind of it), with a list of archives, each an address or a map::

    archives:
      - north/*                      # relative to the catalog's folder
      - name: south
        archive: s3://films/south
        media_roots: [s3://films/videos/]

The address of archives in partitions (``archive.partitions``) stands for the catalog in it, which holds also what is
fixed for all of them. The order counts: a video that is in several archives belongs to the first of them.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from malmm.pipeline.archive.location import absolute, is_local, resolve, table_uri
from malmm.pipeline.archive.partitions import CATALOG_NAME, has_catalog
from malmm.pipeline.archive.store_calls import steadily
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.sources.backend_errors import classify
from malmm.pipeline.sources.backends import BackendFailure

__all__ = ["CATALOG_ENDINGS", "Entry", "entries_of", "names_several"]

CATALOG_ENDINGS = (".yaml", ".yml", ".json")
"""A file with such a name is a catalog; a folder with such a name is an archive."""

_KEYS = {"name", "archive", "media_roots"}


@dataclass(frozen=True)
class Entry:
    """One archive: its name, its resolved address, and the media roots that a catalog gives it, None for none given."""

    name: str
    uri: str
    media_roots: tuple[str, ...] | None = None


def entries_of(given: Sequence[str]) -> list[Entry]:
    """The archives that addresses, globs and catalog files name, each once, in the order given.

    An archive without a name in a catalog is called by as many of its last folders as tell it from the others. Raises
    ConfigError for a catalog that cannot be read, a glob without archives, and a name that is given twice, and
    ArchiveError for an address that Lance cannot open.
    """
    found: dict[str, Entry] = {}
    for address in given:
        listed = _of_catalog(address) if _is_catalog(address) else _of_address(address)
        for entry in listed:
            found.setdefault(entry.uri, entry)
    if not found:
        raise ConfigError("no archive: give --archive a directory or an s3:// URI")
    return _named(list(found.values()))


def names_several(given: Sequence[str]) -> bool:
    """Whether these addresses are meant as several archives: more than one, a glob, a catalog file or its folder.

    Raises ArchiveError if an object store cannot be asked for a catalog.
    """
    if len(given) != 1 or _is_catalog(given[0]):
        return True
    if glob.has_magic(given[0]) and not _is_there(given[0]):
        return True
    return has_catalog(given[0])


def _is_there(address: str) -> bool:
    place = absolute(address)
    return is_local(place) and Path(place).exists()


def _is_catalog(address: str) -> bool:
    if not address.lower().endswith(CATALOG_ENDINGS) or glob.has_magic(address):
        return False
    place = absolute(address)
    return not (is_local(place) and Path(place).is_dir())


def _of_address(address: str) -> list[Entry]:
    place = resolve(address)
    if not glob.has_magic(address) or _is_there(address):
        return _of_catalog(f"{place}/{CATALOG_NAME}") if has_catalog(place) else [Entry("", place)]
    folders = _globbed(place)
    if not folders:
        raise ConfigError(f"--archive {address!r}: no archive matches this glob")
    return [Entry("", folder) for folder in folders]


def _globbed(pattern: str) -> list[str]:
    """Folders that match and hold an archive, in the order of their names."""
    # Every archive has this table.
    tables = table_uri(pattern, "recipes")
    if is_local(pattern):
        return sorted(str(Path(match).parent) for match in glob.glob(tables))  # noqa: PTH207 - absolute patterns
    import fsspec

    scheme = pattern.partition("://")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(tables)
        matches = steadily(lambda: filesystem.glob(path))
    except Exception as error:
        raise ConfigError(f"--archive {pattern!r}: cannot list what matches: {_reason(error)}") from error
    return sorted(f"{scheme}://{match.rpartition('/')[0]}" for match in matches)


def _of_catalog(address: str) -> list[Entry]:
    place = absolute(address)
    content = _read(address, place)
    listed = content.get("archives") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed or set(content) - {"partitions"} != {"archives"}:
        raise ConfigError(
            f"{address} is not a catalog of archives: it must hold a list `archives:`, and nothing else"
        )
    folder = place.rpartition("/")[0]
    return [entry for each in listed for entry in _of_item(each, address, folder)]


def _of_item(item: Any, catalog: str, folder: str) -> list[Entry]:
    given = {"archive": item} if isinstance(item, str) else item
    if not isinstance(given, dict) or not isinstance(given.get("archive"), str) or not given["archive"]:
        raise ConfigError(
            f"{catalog}: {item!r} is not an archive: write its address, or a map with `archive:`"
        )
    if unknown := sorted(map(str, set(given) - _KEYS)):
        raise ConfigError(f"{catalog}: an archive has no {unknown[0]!r}: it has {', '.join(sorted(_KEYS))}")
    name, roots = given.get("name", ""), given.get("media_roots")
    if not isinstance(name, str):
        raise ConfigError(f"{catalog}: the name {name!r} is not a text: quote it")
    if roots is not None and not (isinstance(roots, list) and all(isinstance(root, str) for root in roots)):
        raise ConfigError(
            f"{catalog}: media_roots of {given['archive']} must be a list of folders or addresses"
        )
    address = given["archive"]
    # Relative to the catalog, wherever the command is started.
    beside = (
        absolute(address) if "://" in address or address.startswith(("/", "~")) else f"{folder}/{address}"
    )
    found = _of_address(beside)
    if name and len(found) > 1:
        raise ConfigError(
            f"{catalog}: {address!r} is {len(found)} archives, which cannot all be called {name!r}"
        )
    return [
        replace(entry, name=name, media_roots=None if roots is None else tuple(_beside(roots, folder)))
        for entry in found
    ]


def _beside(roots: Iterable[str], folder: str) -> Iterable[str]:
    for root in roots:
        yield root if "://" in root or root.startswith(("/", "~")) else f"{folder}/{root}"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, BackendFailure) else classify(error).reason


def _read(address: str, place: str) -> Any:
    # Only for catalogs: most commands have one archive.
    import fsspec
    import yaml

    def read() -> bytes:
        with fsspec.open(place, "rb") as file:
            return bytes(file.read())

    try:
        content = steadily(read)
    except Exception as error:
        raise ConfigError(f"cannot read the catalog {address}: {_reason(error)}") from error
    try:
        return yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{address} is not a catalog of archives: {' '.join(str(error).split())}"
        ) from error


def _named(entries: list[Entry]) -> list[Entry]:
    """Entries with the shortest ends of their addresses as names that tell them apart, where none was given."""
    taken = Counter(entry.name for entry in entries if entry.name)
    if repeated := [name for name, times in taken.items() if times > 1]:
        raise ConfigError(f"{taken[repeated[0]]} archives are called {repeated[0]!r}: give each its own name")
    parts = [entry.uri.rstrip("/").split("/") for entry in entries]
    named = []
    for entry, own in zip(entries, parts, strict=True):
        if entry.name:
            named.append(entry)
            continue
        for length in range(1, len(own) + 1):
            name = "/".join(own[-length:])
            same = sum(other[-length:] == own[-length:] for other in parts)
            if (same == 1 and name not in taken) or length == len(own):
                named.append(replace(entry, name=name))
                break
    return named
