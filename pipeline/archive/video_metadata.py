"""What manifests say about videos, as typed columns of the table ``videos``.

The column ``metadata`` holds a manifest's values as JSON, and is what counts. Each key has a column beside it,
``meta_<key>``, of one of the types of ``metadata_types``, written in the same commit as the JSON, so that the two never
differ. A key's type is the one that holds all of its values in the archive: values that do not fit it change the column
before the row is written. The column gets its new values under another name, and the two change names in one commit.

Archives of 0.1 have no such columns until a run stores metadata or ``malmm optimize`` is called.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa

from malmm.pipeline.archive.metadata_types import ARROW_TYPES, Kinds, converted, parse_metadata
from malmm.pipeline.archive.table_writer import TableWriter

__all__ = [
    "META_PREFIX",
    "MOST_COLUMNS",
    "MetadataColumn",
    "has_untyped_metadata",
    "metadata_columns",
    "type_stored_metadata",
    "with_typed_metadata",
]

META_PREFIX = "meta_"
MOST_COLUMNS = 256
"""Most keys that get a column; the values of others are in the JSON only."""

_FIELD = b"malmm.metadata"
_NEXT, _OLD = "next_", "old_"
_LONGEST = 60
_KIND_OF_TYPE = {kind: name for name, kind in ARROW_TYPES.items()}


@dataclass(frozen=True)
class MetadataColumn:
    """The column of a metadata ``key``: its name, its type, and why it is text where not all values are text."""

    key: str
    column: str
    kind: str
    note: str = ""

    def field(self, prefix: str = "") -> pa.Field:
        """Its Arrow field, its name beginning with ``prefix``."""
        said = json.dumps({"key": self.key, "note": self.note}).encode()
        return pa.field(prefix + self.column, ARROW_TYPES[self.kind], metadata={_FIELD: said})


def metadata_columns(schema: pa.Schema) -> dict[str, MetadataColumn]:
    """The metadata columns of a ``videos`` table of this schema, by key."""
    found = {}
    for field in schema:
        said = (field.metadata or {}).get(_FIELD)
        if said is not None and field.name.startswith(META_PREFIX) and field.type in _KIND_OF_TYPE:
            about = json.loads(said)
            kind = _KIND_OF_TYPE[field.type]
            found[about["key"]] = MetadataColumn(about["key"], field.name, kind, about["note"])
    return dict(sorted(found.items()))


def has_untyped_metadata(videos: lance.LanceDataset) -> bool:
    """Whether some row has metadata and no value in any column of metadata."""
    columns = [known.column for known in metadata_columns(videos.schema).values()]
    untyped = " AND ".join(["metadata != ''", *(f"{column} IS NULL" for column in columns)])
    return bool(videos.count_rows(filter=untyped))


def with_typed_metadata(changes: TableWriter, rows: pa.Table) -> pa.Table:
    """Rows for ``videos`` with a column for each key of their metadata. Changes the table's columns to hold them.

    Raises ArchiveError, and ArchiveBusy when another writer took over.
    """
    if not rows.num_rows:
        return rows
    videos = _tidied(changes)
    objects = [parse_metadata(text) for text in rows["metadata"].to_pylist()]
    known = metadata_columns(videos.schema)
    # The first to be typed: the columns have to hold what is stored already, too.
    stored = _stored(videos) if not known and any(objects) else []
    wanted = _wanted(known, _kinds([*stored, *objects]))
    _change(changes, known, [each for key, each in wanted.items() if known.get(key) != each])
    for column in wanted.values():
        rows = rows.append_column(column.field(), _values(objects, column))
    return rows


def type_stored_metadata(changes: TableWriter) -> list[str]:
    """Type the metadata of all rows anew, where columns differ from the JSON; names of the columns that changed.

    They differ where a release wrote rows that has no such columns. Also drops columns of keys that no row has any
    more. Raises as ``with_typed_metadata`` does.
    """
    videos = _tidied(changes)
    known = metadata_columns(videos.schema)
    rows = videos.to_table(columns=["metadata", *(each.column for each in known.values())])
    objects = [parse_metadata(text) for text in rows["metadata"].to_pylist()]
    found = _kinds(objects)
    wanted = _wanted({key: each for key, each in known.items() if key in found}, found, anew=True)
    changed = [
        each
        for key, each in wanted.items()
        if known.get(key) != each or not rows[each.column].equals(pa.chunked_array([_values(objects, each)]))
    ]
    _change(changes, known, changed)
    gone = [each.column for key, each in known.items() if key not in wanted]
    if gone:
        with changes.changing("videos", "change columns of table 'videos' of") as dataset:
            dataset.drop_columns(gone)
    return sorted([*(each.column for each in changed), *gone])


def _stored(videos: lance.LanceDataset) -> list[dict[str, Any]]:
    texts = videos.to_table(columns=["metadata"], filter="metadata != ''")["metadata"].to_pylist()
    return [parse_metadata(text) for text in texts]


def _values(objects: Iterable[Mapping[str, Any]], column: MetadataColumn) -> pa.Array:
    return converted((each.get(column.key) for each in objects), column.kind)


def _kinds(objects: Iterable[Mapping[str, Any]]) -> dict[str, Kinds]:
    found: defaultdict[str, Kinds] = defaultdict(Kinds)
    for each in objects:
        for key, value in each.items():
            found[key].add(value)
    return dict(sorted(found.items()))


def _wanted(
    known: Mapping[str, MetadataColumn], found: Mapping[str, Kinds], *, anew: bool = False
) -> dict[str, MetadataColumn]:
    """The columns for the known and the found keys; with ``anew`` the found values alone decide on the types."""
    wanted = dict(known)
    taken = {each.column for each in known.values()}
    for key, kinds in found.items():
        before = known.get(key)
        if before is None:
            if len(wanted) >= MOST_COLUMNS:
                continue
            wanted[key] = MetadataColumn(key, _named(key, taken), kinds.joined, kinds.note)
            taken.add(wanted[key].column)
        elif anew:
            wanted[key] = MetadataColumn(key, before.column, kinds.joined, kinds.note)
        else:
            wanted[key] = _widened(before, kinds)
    return wanted


def _widened(column: MetadataColumn, kinds: Kinds) -> MetadataColumn:
    if kinds.joined == column.kind or (column.kind, kinds.joined) == ("double", "int"):
        return column
    if (column.kind, kinds.joined) == ("int", "double"):
        return MetadataColumn(column.key, column.column, "double")
    if column.kind == "string":
        # A number among texts is a text; its column was not of numbers before.
        return column
    return MetadataColumn(column.key, column.column, "string", kinds.note_beside(column.kind))


def _named(key: str, taken: set[str]) -> str:
    """A column name of plain letters for a key, which may be anything."""
    plain = re.sub(r"[^a-z0-9]+", "_", key.casefold()).strip("_")[:_LONGEST] or "column"
    name, number = META_PREFIX + plain, 2
    while name in taken:
        name, number = f"{META_PREFIX}{plain}_{number}", number + 1
    return name


def _change(
    changes: TableWriter, known: Mapping[str, MetadataColumn], changed: Sequence[MetadataColumn]
) -> None:
    """Add columns or replace them, filled from the stored JSON."""
    if not changed:
        return
    replaced = [each for each in changed if each.key in known]
    fields = [each.field(_NEXT if each in replaced else "") for each in changed]

    @lance.batch_udf(output_schema=pa.schema(fields))
    def typed(batch: pa.RecordBatch) -> pa.RecordBatch:
        objects = [parse_metadata(text) for text in batch["metadata"].to_pylist()]
        arrays = [_values(objects, column) for column in changed]
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    with changes.changing("videos", "type the metadata of") as dataset:
        dataset.add_columns(typed, read_columns=["metadata"])
    if replaced:
        names = [
            {"path": path, "name": name}
            for each in replaced
            for path, name in ((each.column, _OLD + each.column), (_NEXT + each.column, each.column))
        ]
        with changes.changing("videos", "change columns of table 'videos' of") as dataset:
            dataset.alter_columns(*names)
        _tidied(changes)


def _tidied(changes: TableWriter) -> lance.LanceDataset:
    """The table ``videos``, without columns that a change left when it was stopped."""
    with changes.changing("videos", "change columns of table 'videos' of") as dataset:
        left = [
            name
            for name in dataset.schema.names
            if name.startswith((_NEXT + META_PREFIX, _OLD + META_PREFIX))
        ]
        if not left:
            return dataset
        dataset.drop_columns(left)
    return changes.dataset("videos")
