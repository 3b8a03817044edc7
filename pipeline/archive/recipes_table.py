"""Which recipe an archive's rows are made with, and where they lie.

The table ``recipes`` has a row for each recipe that the archive has had; the one of the highest number is in force. The
first one's tables lie at the archive's own address. Those of a later one are a database of their own below it, so that
they can be made while the others are searched: one more row in ``recipes`` puts them in force, at one stroke.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.location import create_dataset, lance_errors, open_dataset
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.schema.config import Recipe, stable_id
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import FORMAT, RECIPES

__all__ = ["Generation", "beside", "in_force", "is_generation", "put_in_force", "record_first"]

_PLACE = re.compile(r"recipe-[0-9a-f]{24}")


@dataclass(frozen=True)
class Generation:
    """A recipe and where its tables lie: ``place`` is relative to the archive, empty for the archive itself."""

    recipe: Recipe
    place: str
    number: int

    def address(self, root: str) -> str:
        """Where the tables lie."""
        return f"{root}/{self.place}" if self.place else root


def is_generation(name: str) -> bool:
    """Whether a folder of an archive is that of a later generation."""
    return bool(_PLACE.fullmatch(name))


def in_force(root: str) -> Generation | None:
    """The generation of the archive at a resolved address; None where there is no finished archive."""
    rows = _rows(root)
    return _latest(root, rows) if rows else None


def beside(root: str, recipe: Recipe) -> Generation:
    """The generation of another recipe, to follow the one in force.

    It does not lie where one was in force before: whoever replaced that one may still be about to delete its tables.
    """
    rows = _rows(root)
    number = _latest(root, rows).number + 1
    place = f"recipe-{recipe.recipe_id}"
    if place in {row["place"] for row in rows}:
        place = f"recipe-{stable_id('generation', recipe.recipe_id, number)}"
    return Generation(recipe, place, number)


def _rows(root: str) -> list[dict[str, Any]]:
    """The rows of ``recipes``; none where there is no finished archive."""
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
    if found > FORMAT:
        raise ArchiveError(
            f"{root} was made by a newer version of malmm-ray (format {found}, and this one reads {FORMAT}): install "
            "that version",
            uri=root,
        )
    if found < FORMAT:
        raise ArchiveError(
            f"{root} was made by an older version of malmm-ray (format {found}, and this one reads {FORMAT}): index "
            "its videos into a new archive",
            uri=root,
        )


def record_first(root: str, recipe: Recipe) -> Generation:
    """Record the recipe of a new archive, whose tables are there; gives the one in force, which may be another's."""
    made = Generation(recipe, "", 0)
    try:
        create_dataset(root, "recipes", _row(made))
    except ArchiveError:
        # Somebody else may have been quicker by a moment; then theirs is the archive's recipe.
        stored = in_force(root)
        if stored is None:
            raise
        return stored
    return made


def put_in_force(changes: TableWriter, generation: Generation) -> None:
    """From now on readers see this generation. ``changes`` writes the tables at the archive's own address."""
    changes.append("recipes", _row(generation))


def _row(generation: Generation) -> pa.Table:
    row = {
        "recipe_id": generation.recipe.recipe_id,
        "recipe": generation.recipe.to_json(),
        "place": generation.place,
        "number": generation.number,
        "format": FORMAT,
        "created_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([row], schema=RECIPES)
