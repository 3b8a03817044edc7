"""Answers that follow a JSON schema, as typed columns of the table ``annotations``.

The text of such an answer is its JSON, and is what counts. Each scalar in it that is not in a list has a column
``answer_<prompt>_<path>``, written in the same commit, of the type that the value has in JSON. A prompt's later version
may have another type at the same path: that is another column. Tables get a column with the first value for it, so that
archives of 0.1 need no migration. A timed record (task ``moment``) is a row of its own and has columns like an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.filter_values import text_literal
from malmm.pipeline.archive.metadata_types import ARROW_TYPES
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.text_grams import with_grams
from malmm.pipeline.schema.ids import moments_version
from malmm.pipeline.schema.tables import MOMENT, RECORD

__all__ = [
    "MOST_COLUMNS",
    "AnswerColumn",
    "answer_columns",
    "column_of",
    "rows_to_store",
    "with_answer_columns",
]

MOST_COLUMNS = 256
"""Most columns for answers; further values are in the JSON only."""
_FIELD = b"malmm.answer"
_LONGEST = 60


@dataclass(frozen=True)
class AnswerColumn:
    """The column of the values of one type at a ``path`` in a prompt's answers: names joined by dots, empty for the
    whole answer."""

    prompt: str
    path: str
    kind: str
    column: str

    def field(self) -> pa.Field:
        """Its Arrow field."""
        said = json.dumps({"prompt": self.prompt, "path": self.path}).encode()
        return pa.field(self.column, ARROW_TYPES[self.kind], metadata={_FIELD: said})


def answer_columns(schema: pa.Schema) -> dict[tuple[str, str, str], AnswerColumn]:
    """The typed columns of an ``annotations`` table of this schema, by prompt, path and type."""
    kinds = {kind: name for name, kind in ARROW_TYPES.items()}
    found = {}
    for field in schema:
        said = (field.metadata or {}).get(_FIELD)
        if said is not None and field.type in kinds:
            about = json.loads(said)
            kind = kinds[field.type]
            key = (about["prompt"], about["path"], kind)
            found[key] = AnswerColumn(*key, field.name)
    return dict(sorted(found.items()))


def column_of(reader: ArchiveReader, prompt: str, path: str, version: str) -> AnswerColumn | None:
    """The column with the values of a version of a prompt at a path; None if there are no values.

    Values of several types at one path are in several columns: this is that of most.
    """
    known = answer_columns(reader.schema("annotations"))
    alike = [each for each in known.values() if (each.prompt, each.path) == (prompt, path)]
    if len(alike) < 2:
        return alike[0] if alike else None
    versions = ", ".join(map(text_literal, (version, moments_version(version))))
    counts = {
        each: reader.count("annotations", f"prompt_version IN ({versions}) AND {each.column} IS NOT NULL")
        for each in alike
    }
    return max(counts, key=lambda each: counts[each])


def rows_to_store(changes: TableWriter, rows: pa.Table) -> pa.Table:
    """Rows of ``annotations`` in the columns of the table, with those that are made of their texts.

    Adds columns to the table for answers that need them. Raises ArchiveError, and ArchiveBusy when another writer took
    over.
    """
    rows = with_answer_columns(changes, rows)
    return with_grams(rows, changes.tables.dataset("annotations").schema)


def with_answer_columns(changes: TableWriter, rows: pa.Table) -> pa.Table:
    """Rows with a column for each scalar of their answers. Raises as ``rows_to_store`` does."""
    pairs = zip(rows["task"].to_pylist(), rows["text"].to_pylist(), strict=True)
    values = [dict(_scalars(text)) if task in (RECORD, MOMENT) else {} for task, text in pairs]
    if not any(values):
        return rows
    schema = changes.tables.dataset("annotations").schema
    known = answer_columns(schema)
    prompts = rows["prompt_name"].to_pylist()
    keys = {
        (prompt, path, kind): None
        for prompt, own in zip(prompts, values, strict=True)
        for path, (kind, _) in own.items()
    }
    missing = [key for key in keys if key not in known][: MOST_COLUMNS - len(known)]
    if missing:
        taken = set(schema.names)
        added = []
        for key in missing:
            added.append(AnswerColumn(*key, _named(key, taken)))
            taken.add(added[-1].column)
        with changes.changing("annotations", "add columns to table 'annotations' of") as dataset:
            dataset.add_columns(pa.schema([each.field() for each in added]))
        known |= {(each.prompt, each.path, each.kind): each for each in added}
    for prompt, path, kind in keys:
        each = known.get((prompt, path, kind))
        if each is not None:
            column = [
                own[path][1] if name == prompt and own.get(path, ("",))[0] == kind else None
                for name, own in zip(prompts, values, strict=True)
            ]
            rows = rows.append_column(each.field(), pa.array(column, ARROW_TYPES[kind]))
    return rows


def _scalars(text: str) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Path, type and value of each scalar that is not in a list. None of a text that is no JSON."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return
    yield from _below(answer, "")


def _below(value: Any, path: str) -> Iterator[tuple[str, tuple[str, Any]]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _below(part, f"{path}.{name}" if path else name)
    elif isinstance(value, bool):
        yield path, ("bool", value)
    elif isinstance(value, int) and abs(value) < 2**63:
        yield path, ("int", value)
    elif isinstance(value, float):
        yield path, ("double", value)
    elif isinstance(value, str):
        yield path, ("string", value)


def _named(key: tuple[str, str, str], taken: set[str]) -> str:
    """A column name of plain letters."""
    prompt, path, _ = key
    plain = re.sub(r"[^a-z0-9]+", "_", f"{prompt}_{path}".casefold()).strip("_")[:_LONGEST] or "column"
    name, number = f"answer_{plain}", 2
    while name in taken:
        name, number = f"answer_{plain}_{number}", number + 1
    return name
