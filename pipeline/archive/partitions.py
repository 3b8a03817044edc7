"""An archive in partitions: archives below one address that several runs fill and that readers search as one.

::

    ADDRESS/
      catalog.yaml              what is fixed (how many partitions, the model, the recipe), and the list of archives
      part-0000/                an archive like any other: its own writer, indexes and history of runs
      part-0001/
      listings/part-0000.json   that a run of this partition listed all sources (``partition_listings``)

A video belongs to one partition, by the hash of its address (``schema.partition``). The run that comes first makes the
catalog, and no run changes it. As it lists archives like any catalog, readers take the address, or the file, for all of
them (``catalog``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.pipeline.archive.location import absolute, is_local, open_dataset, resolve, table_uri
from malmm.pipeline.archive.recipe_mismatch import mismatch
from malmm.pipeline.archive.recipes_table import in_force
from malmm.pipeline.archive.small_files import publish_once, read_file
from malmm.pipeline.archive.store_check import check_store
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.partition import Partition, all_partitions, is_partition_name

__all__ = [
    "CATALOG_NAME",
    "Partitioned",
    "fix_partitions",
    "has_catalog",
    "partition_at",
    "partitioned_at",
    "partitions_named",
    "refuse_partition",
    "refuse_partitioned",
]

CATALOG_NAME = "catalog.yaml"
"""The file at an address that lists the archives below it."""


@dataclass(frozen=True)
class Partitioned:
    """What the catalog at ``address`` fixes for all partitions: their number, and the recipe with the model."""

    address: str
    number: int
    recipe: Recipe

    def check(self, number: int, recipe: Recipe | None = None) -> None:
        """Raise ConfigError for another number, and RecipeMismatch for another recipe, naming both values."""
        if number != self.number:
            raise ConfigError(
                f"{self.address} has {self.number} partitions, and --partitions {number} was asked: the number is "
                f"fixed, so use --partitions {self.number} or give another --archive"
            )
        if recipe is not None and not self.recipe.takes(recipe):
            ways_out = "they are fixed for all partitions, so use the stored ones or give another --archive"
            raise mismatch(self.address, self.recipe, recipe, ways_out=ways_out)


def has_catalog(address: str) -> bool:
    """Whether an address is not an archive but holds a catalog of archives, as one in partitions does.

    Raises ArchiveError if the address cannot be reached.
    """
    place = absolute(address)
    if is_local(place):
        return Path(f"{place}/{CATALOG_NAME}").is_file() and not Path(table_uri(place, "recipes")).exists()
    # An archive in an object store, the usual case, is found without the package that reads other files there.
    return open_dataset(place, "recipes") is None and read_file(f"{place}/{CATALOG_NAME}") is not None


def partitioned_at(address: str) -> Partitioned | None:
    """What the catalog at an address fixes; None if there is no catalog, or one that lists archives and fixes nothing.

    Raises ArchiveError if it cannot be read.
    """
    root = resolve(address)
    content = read_file(f"{root}/{CATALOG_NAME}")
    return None if content is None else _parsed(root, content)


def partitions_named(given: Sequence[str]) -> Partitioned | None:
    """What is fixed for the partitions that users name by their address or its catalog; None if they name others.

    Raises ArchiveError if they cannot be reached.
    """
    address = given[0].removesuffix(f"/{CATALOG_NAME}")
    return partitioned_at(address) if len(given) == 1 and has_catalog(address) else None


def fix_partitions(address: str, number: int, recipe: Recipe) -> bool:
    """Fix number and recipe at an address, or check that they are the fixed ones. Returns whether it made the catalog.

    Of several runs that begin at once, one makes the catalog and the others are checked. Raises as
    ``Partitioned.check`` does, and ArchiveError if the address holds something else or cannot be written.
    """
    root = resolve(address)
    found = partitioned_at(root)
    made = False
    if found is None:
        if in_force(root) is not None:
            raise ArchiveError(
                f"{root} is an archive without partitions: leave out --partitions, or give another --archive",
                uri=root,
            )
        _refuse_strangers(root)
        check_store(root)
        made = publish_once(f"{root}/{CATALOG_NAME}", _written(number, recipe))
        found = partitioned_at(root)
    if found is None:
        raise _no_partitions(root)
    found.check(number, recipe)
    return made


def refuse_partitioned(address: str, way_out: str) -> None:
    """Raise ArchiveError, with a way out, if an address holds archives and is none itself."""
    if has_catalog(address):
        raise ArchiveError(
            f"{address} is not one archive but holds several, which {CATALOG_NAME} lists: {way_out}",
            uri=address,
        )


def partition_at(archive: str) -> Partition | None:
    """The partition whose archive lies at an address; None for an archive that is not one of several partitions.

    Raises ArchiveError if the catalog above it cannot be read.
    """
    parent, _, folder = resolve(archive).rpartition("/")
    found = partitioned_at(parent) if is_partition_name(folder) else None
    return None if found is None else Partition(found.number, int(folder[-4:]))


def refuse_partition(archive: str) -> None:
    """Raise ConfigError if a run that knows of no partitions would write the archive of one."""
    found = partition_at(archive)
    if found is not None:
        parent = found.parent_of(resolve(archive))
        raise ConfigError(
            f"{archive} is one of {found.number} partitions: index with --archive {parent} "
            f"--partitions {found.number} --partition {found.index}"
        )


def _written(number: int, recipe: Recipe) -> bytes:
    import yaml

    content = {
        "archives": [each.name for each in all_partitions(number)],
        "partitions": {"number": number, "model": recipe.model, "recipe": json.loads(recipe.to_json())},
    }
    head = "# The archives that `malmm index --partitions` fills. Number, model and recipe are fixed.\n"
    return (head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode()


def _parsed(root: str, content: bytes) -> Partitioned | None:
    import yaml

    try:
        catalog: Any = yaml.safe_load(content)
        if "archives" in catalog and "partitions" not in catalog:
            return None
        fixed = catalog["partitions"]
        number = Partition(fixed["number"], 0).number
        return Partitioned(root, number, Recipe.from_json(json.dumps(fixed["recipe"])))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ConfigError) as error:
        raise _no_partitions(root) from error


def _no_partitions(root: str) -> ArchiveError:
    return ArchiveError(
        f"{root}/{CATALOG_NAME} is not a catalog of partitions, as `malmm index --partitions` writes it: give another "
        "--archive",
        uri=root,
    )


def _refuse_strangers(root: str) -> None:
    """Raise ArchiveError for a folder that holds anything; an object store has no folders."""
    if not is_local(root) or not Path(root).is_dir():
        return
    strangers = sorted(entry.name for entry in Path(root).iterdir() if not entry.name.startswith("."))
    # Another run may have made the catalog meanwhile, and its archives.
    if strangers and not has_catalog(root):
        raise ArchiveError(
            f"{root} is not empty (it holds {strangers[0]!r}): give --archive a new or empty directory",
            uri=root,
        )
