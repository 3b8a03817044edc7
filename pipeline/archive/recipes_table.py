"""The table ``recipes``: which recipe made an archive's rows, and where those rows lie.

Each row is a generation: a recipe and the place of the tables made with it. The generation with the highest number is
in force. The first generation's tables lie at the archive's own address. A later generation is a database of its own
below it, so that it can be made while the one in force is searched. Adding its row to ``recipes`` puts it in force
atomically.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.location import create_dataset, lance_errors, open_dataset
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.vector_tower import recipe_of_vectors
from malmm.pipeline.schema.config import Recipe, stable_id
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import FORMAT, FORMAT_OF_NEW_VECTORS, RECIPES

__all__ = [
    "Generation",
    "beside",
    "in_force",
    "is_generation",
    "put_in_force",
    "record_first",
    "refuse_older_releases",
]

_PLACE = re.compile(r"recipe-[0-9a-f]{24}")


@dataclass(frozen=True)
class Generation:
    """A recipe and the place of its tables, relative to the archive ("" for the archive's own address)."""

    recipe: Recipe
    place: str
    number: int

    def address(self, root: str) -> str:
        """Address of the tables."""
        return f"{root}/{self.place}" if self.place else root


def is_generation(name: str) -> bool:
    """Whether this is the name of a later generation's folder."""
    return bool(_PLACE.fullmatch(name))


def in_force(root: str) -> Generation | None:
    """The generation in force of the archive at a resolved address; None if there is no complete archive.

    The retrieval model of its recipe is that of the vectors there are, which may have been made anew since.
    """
    rows = _rows(root)
    if not rows:
        return None
    found = _latest(root, rows)
    memories = open_dataset(found.address(root), "memories")
    if memories is None:
        return found
    try:
        return replace(found, recipe=recipe_of_vectors(found.recipe, memories.schema))
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"{root} is damaged: what its vectors say of their retrieval model cannot be read: {error}",
            uri=root,
        ) from error


def beside(root: str, recipe: Recipe) -> Generation:
    """The generation for another recipe, to follow the one in force.

    Its place is never one that was in force before: the writer that replaced that one may be deleting its tables.
    """
    rows = _rows(root)
    number = _latest(root, rows).number + 1
    place = f"recipe-{recipe.recipe_id}"
    if place in {row["place"] for row in rows}:
        place = f"recipe-{stable_id('generation', recipe.recipe_id, number)}"
    return Generation(recipe, place, number)


def _rows(root: str) -> list[dict[str, Any]]:
    """The rows of ``recipes``; none if there is no complete archive."""
    dataset = open_dataset(root, "recipes")
    if dataset is None:
        return []
    with lance_errors(root, "read table 'recipes' of"):
        rows = dataset.to_table().to_pylist()
    if not rows:
        raise ArchiveError(f"{root} is damaged: its table 'recipes' is empty", uri=root)
    _check_format(root, max(row.get("format", 1) for row in rows))
    return rows


def _latest(root: str, rows: list[dict[str, Any]]) -> Generation:
    try:
        row = max(rows, key=lambda row: row["number"])
        if row["place"] and not is_generation(row["place"]):
            raise ArchiveError(f"{root} is damaged: its recipe lies at {row['place']!r}", uri=root)
        return Generation(Recipe.from_json(row["recipe"]), row["place"], row["number"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{root} is damaged: its recipes are {rows}", uri=root) from error


def _check_format(root: str, found: int) -> None:
    if found > FORMAT_OF_NEW_VECTORS:
        raise ArchiveError(
            f"{root} was made by a newer version of malmm-ray (format {found}, and this one reads "
            f"{FORMAT_OF_NEW_VECTORS}): install that version",
            uri=root,
        )
    if found < FORMAT:
        raise ArchiveError(
            f"{root} was made by an older version of malmm-ray (format {found}, and this one reads {FORMAT}): index "
            "its videos into a new archive",
            uri=root,
        )


def record_first(root: str, recipe: Recipe) -> Generation:
    """Record the recipe of a new archive whose tables exist. Returns the generation in force.

    That may be one that another writer recorded first.
    """
    made = Generation(recipe, "", 0)
    try:
        create_dataset(root, "recipes", _row(made))
    except ArchiveError:
        # Another writer may have been quicker: then its recipe is the archive's.
        stored = in_force(root)
        if stored is None:
            raise
        return stored
    return made


def put_in_force(changes: TableWriter, generation: Generation) -> None:
    """Make readers see this generation from now on. ``changes`` writes the tables at the archive's own address."""
    changes.append("recipes", _row(generation))


def refuse_older_releases(changes: TableWriter, root: str) -> None:
    """Make releases that take the vectors for those of the first retrieval model refuse the archive.

    ``changes`` writes the tables at the archive's own address.
    """
    rows = _rows(root)
    if max(row["format"] for row in rows) < FORMAT_OF_NEW_VECTORS:
        latest = _latest(root, rows)
        changes.append(
            "recipes", _row(replace(latest, number=latest.number + 1), written=FORMAT_OF_NEW_VECTORS)
        )


def _row(generation: Generation, *, written: int = FORMAT) -> pa.Table:
    row = {
        "recipe_id": generation.recipe.recipe_id,
        "recipe": generation.recipe.to_json(),
        "place": generation.place,
        "number": generation.number,
        "format": written,
        "created_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([row], schema=RECIPES)
