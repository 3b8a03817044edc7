"""Creation of an archive: make one, complete one whose creation was killed, refuse a folder that holds something else.

The table ``recipes`` is created last, together with its row: if it exists, everything else does too.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from malmm.pipeline.archive.lease_table import WRITER_TABLE
from malmm.pipeline.archive.location import (
    change_columns,
    check_writable,
    ensure_dataset,
    is_local,
    lance_errors,
    open_dataset,
    resolve,
)
from malmm.pipeline.archive.partitions import refuse_partitioned
from malmm.pipeline.archive.recipe_mismatch import mismatch
from malmm.pipeline.archive.recipes_table import Generation, beside, in_force, is_generation, record_first
from malmm.pipeline.archive.run_history import RUNS_TABLE
from malmm.pipeline.archive.search_indexes import make_words_indexes
from malmm.pipeline.archive.store_check import check_store
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import LATER_TABLES, memories_schema, of_this_or_before, table_schemas

__all__ = ["address_of_rows", "create_or_load", "load_if_there", "recipe_if_there"]

_TRIES = 8


def recipe_if_there(uri: str) -> Recipe | None:
    """The recipe of the archive in force; None where there is none but one could be made.

    Makes nothing. Raises ArchiveError if the place holds something else, cannot be written or cannot be reached.
    """
    root = resolve(uri)
    check_writable(root)
    found = in_force(root)
    if found is None:
        # The tables' names do not depend on the sizes of what they hold.
        _refuse_strangers(root, set(table_schemas(1)))
    return None if found is None else found.recipe


def load_if_there(
    uri: str, recipe: Recipe, vector_size: int, *, reindex: bool = False
) -> tuple[str, Recipe, str] | None:
    """Return (address of the tables, their recipe, address of the archive), or None if none exists but could be made.

    Creates nothing. Raises as ``create_or_load`` does.
    """
    root = resolve(uri)
    check_writable(root)
    found = in_force(root)
    if found is None:
        _refuse_strangers(root, set(table_schemas(vector_size, recipe.token_layers)))
        return None
    if reindex and not found.recipe.takes(recipe):
        address = beside(root, recipe).address(root)
        if in_force(address) is None:
            return None
    return create_or_load(uri, recipe, vector_size, reindex=reindex)


def address_of_rows(uri: str, recipe: Recipe, *, reindex: bool = False) -> str:
    """The address at which ``create_or_load`` finds or will create the tables. Creates nothing."""
    root = resolve(uri)
    found = in_force(root)
    if found is not None and reindex and not found.recipe.takes(recipe):
        return beside(root, recipe).address(root)
    return root if found is None else found.address(root)


def create_or_load(
    uri: str, recipe: Recipe, vector_size: int, *, reindex: bool = False
) -> tuple[str, Recipe, str]:
    """Create what is missing, and return (address of the tables, their recipe, address of the archive).

    If the archive has another recipe: with ``reindex``, creates a new generation of tables beside those in force;
    without it, raises RecipeMismatch. Raises ArchiveError if the address holds something else, cannot be written or
    cannot be reached.
    """
    root = resolve(uri)
    check_writable(root)
    found = in_force(root)
    if found is None:
        found = _create(root, recipe, vector_size)
    address = found.address(root)
    if not found.recipe.takes(recipe):
        if not reindex:
            ways_out = "use the stored ones, give another --archive, or recompute all rows with --reindex"
            raise mismatch(root, found.recipe, recipe, ways_out=ways_out)
        address = beside(root, recipe).address(root)
        own = in_force(address) or _create(address, recipe, vector_size)
        if not own.recipe.takes(recipe):
            raise ArchiveError(
                f"{address} is damaged: its recipe is not the one that it is named for", uri=address
            )
        found = own
    memories = open_dataset(address, "memories")
    wanted = memories_schema(vector_size, recipe.token_layers)
    if memories is None or not of_this_or_before(memories.schema, wanted):
        raise ArchiveError(
            f"{address} has no memories with vectors of {vector_size} numbers: it is damaged or was made by "
            "another version of malmm-ray; give another --archive",
            uri=address,
        )
    return address, found.recipe, root


def _create(place: str, recipe: Recipe, vector_size: int) -> Generation:
    schemas = table_schemas(vector_size, recipe.token_layers)
    _refuse_strangers(place, set(schemas))
    check_store(place)
    _create_tables(place, schemas)
    make_words_indexes(place)
    recorded = record_first(place, recipe)
    if recorded.recipe.takes(recipe):
        _settle(place, schemas["memories"])
    return recorded


def _settle(place: str, memories: pa.Schema) -> None:
    """See that ``memories`` has the columns that the recorded recipe asks for, and that no other run can change them.

    A run with another model that began at the same moment may have changed them before the recipe was there, or be
    about to: after this commit, or once there are rows, it no longer can.
    """
    for attempt in range(_TRIES):
        found = ensure_dataset(place, "memories", memories.empty_table())
        if found.count_rows():
            return
        try:
            change_columns(found, memories, place)
            return
        except ArchiveError:
            if attempt == _TRIES - 1:
                raise


def _create_tables(place: str, schemas: dict[str, pa.Schema]) -> None:
    for name, schema in schemas.items():
        if name == "recipes":
            continue
        found = ensure_dataset(place, name, schema.empty_table())
        if found.count_rows():
            if in_force(place) is not None:
                # Another run has made the archive meanwhile, and begun to write.
                return
            raise ArchiveError(
                f"{place} holds a table {name!r} with rows but no recipe, so it is not an "
                "archive of malmm-ray: give another --archive",
                uri=place,
            )
        if not found.schema.equals(schema):
            # An empty table of a creation for another model: killed before it recorded its recipe, or at work now.
            if in_force(place) is not None:
                return
            try:
                change_columns(found, schema, place)
            except ArchiveError:
                if in_force(place) is None:
                    raise
                return


def _refuse_strangers(place: str, names: set[str]) -> None:
    """Raise ArchiveError for any unknown file in a directory, or any unknown table under an object store's prefix."""
    refuse_partitioned(place, "give the run its --partitions")
    names = names | {WRITER_TABLE, RUNS_TABLE, *LATER_TABLES}
    if is_local(place):
        folder = Path(place)
        present = (entry.name for entry in folder.iterdir()) if folder.exists() else iter(())
        strangers = sorted(
            name
            for name in present
            if not name.startswith(".")
            and name.removesuffix(".lance") not in names
            and not is_generation(name)
        )
    else:
        import lancedb

        with lance_errors(place, "list the tables of"):
            strangers = sorted(set(lancedb.connect(place).list_tables(limit=1000).tables) - names)
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        raise ArchiveError(
            f"{place} is not empty and not an archive (it holds {strangers[0]!r}{more}): "
            "give --archive a new or empty directory",
            uri=place,
        )
