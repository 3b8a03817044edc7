"""Filters over what an archive knows: columns of videos, metadata of manifests, answers and labels, and time.

``filter_syntax`` parses a filter, and this module looks its columns up in the archive:

- ``start_s`` and ``end_s`` are those of a moment, in seconds on the video's clock;
- ``answer.<prompt>`` is a prompt's text about the moment's segment, ``label.<prompt>`` a classification's label and
  ``score.<prompt>`` its probability. A prompt that only whole videos were asked counts for all of a video;
- ``answer.<prompt>.<path>`` is a value in the JSON of a typed answer, by its type (``answer_columns``), and
  ``answer.<path>`` the same where one prompt alone has the path. Of timed records it is about the moments during which
  one is, and conditions on the same prompt that are joined by AND hold for the same record;
- the other columns are those of the table ``videos``, then keys of its metadata; ``meta.<key>`` is always metadata.

What is about videos or texts is looked up first and becomes sets of ids, so that searches of vectors and words both
have it as a condition (``scope``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from malmm.pipeline.archive.answer_columns import AnswerColumn, answer_columns, column_of
from malmm.pipeline.archive.filter_syntax import AllOf, AnyOf, Condition, Node, parse_filter, refusal
from malmm.pipeline.archive.filter_values import comparisons, seconds, sql_condition, text_literal
from malmm.pipeline.archive.metadata_values import metadata_of, readers_of
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.record_scope import Records
from malmm.pipeline.archive.scope import Both, Either, Part, Scope, Segments, Span, Videos
from malmm.pipeline.archive.video_metadata import MetadataColumn, has_untyped_metadata, metadata_columns
from malmm.pipeline.schema.ids import moments_version
from malmm.pipeline.schema.tables import ANSWERS_ONLY

__all__ = [
    "MOMENT_COLUMNS",
    "TEXT_COLUMNS",
    "VIDEO_COLUMNS",
    "known_columns",
    "scope_of",
    "videos_within",
    "written_name",
]

#: Columns of ``videos`` that filters may name, and their types.
VIDEO_COLUMNS = {
    "video_id": "string",
    "uri": "string",
    "codec": "string",
    "width": "int",
    "height": "int",
    "fps": "double",
    "duration_s": "seconds",
    "indexed_at": "timestamp",
}
MOMENT_COLUMNS = ("start_s", "end_s")
#: What stands before a prompt's name: the column of ``annotations`` and its type.
TEXT_COLUMNS = {"answer": ("text", "string"), "label": ("text", "string"), "score": ("score", "double")}
_META = "meta"


def scope_of(archive: ArchiveReader, where: str | None, videos: Sequence[str] | None = None) -> Scope:
    """The part of an archive that a filter leaves, of these videos or of all.

    Raises ConfigError for a filter that does not parse, names an unknown column or compares it with a value of another
    type.
    """
    parts: list[Part] = [] if videos is None else [Videos(frozenset(videos))]
    if where is not None:
        parts.append(_Resolver(archive, where).part(parse_filter(where)))
    return Scope.of(parts)


def videos_within(archive: ArchiveReader, scope: Scope) -> set[str]:
    """Ids of the videos with a moment in a scope."""
    if scope.is_all:
        return set(archive.completed_videos())
    if scope.is_videos:
        return set(scope.videos or ())
    return archive.tables.ids("memories", "video_id", [str(scope.sql())])


def known_columns(archive: ArchiveReader) -> dict[str, str]:
    """Columns that a filter may name in this archive, with their types; keys of metadata as they are written."""
    columns = dict.fromkeys(MOMENT_COLUMNS, "seconds") | VIDEO_COLUMNS
    for key, column in metadata_of(archive).items():
        columns[("" if key.casefold() not in columns else f"{_META}.") + written_name(key)] = column.kind
    for prompt in archive.prompt_versions():
        labels = prompt["task"] == "classification"
        for before in ("label", "score") if labels else ("answer",):
            columns[f"{before}.{prompt['prompt_name']}"] = TEXT_COLUMNS[before][1]
    for (name, path, kind), _ in _answer_columns(archive).items():
        columns[".".join(["answer", name, *([path] if path else [])])] = kind
    return columns


def _answer_columns(archive: ArchiveReader) -> dict[tuple[str, str, str], AnswerColumn]:
    """Typed columns of answers in any of the archives that are read as one."""
    return {
        key: each
        for reader, _ in readers_of(archive)
        for key, each in answer_columns(reader.schema("annotations")).items()
    }


class _Resolver:
    """Looks up the columns of one filter."""

    def __init__(self, archive: ArchiveReader, text: str) -> None:
        self._archive, self._text = archive, text
        self._metadata = metadata_of(archive)
        self._places: dict[str, tuple[str, str | None]] = {}
        self._versions: dict[str, tuple[str, str]] = {}
        self._are_timed: dict[str, bool] = {}

    def part(self, node: Node) -> Part:
        """The part of the archive that a node leaves."""
        if self._is_about_videos(node):
            return Videos(frozenset(self._videos(node)))
        if (prompt := self._timed(node)) is not None:
            return self._records(prompt, node)
        if isinstance(node, Condition):
            return self._of_text(node) if node.names[0].casefold() in TEXT_COLUMNS else self._of_span(node)
        # Conditions over videos are looked up together, and so are those over records of one prompt.
        groups: dict[object, list[Node]] = {}
        for number, part in enumerate(node.parts):
            about = "videos" if self._is_about_videos(part) else self._timed(part)
            groups.setdefault(number if about is None else ("all of", about), []).append(part)
        kind = AllOf if isinstance(node, AllOf) else AnyOf
        parts = tuple(self.part(own[0] if len(own) == 1 else kind(tuple(own))) for own in groups.values())
        return Both(parts) if isinstance(node, AllOf) else Either(parts)

    def _is_about_videos(self, node: Node) -> bool:
        """Whether a node is a condition over ``videos`` alone."""
        if not isinstance(node, Condition):
            return all(map(self._is_about_videos, node.parts))
        first = node.names[0].casefold()
        return first not in (MOMENT_COLUMNS if len(node.names) == 1 else TEXT_COLUMNS)

    def _videos(self, node: Node) -> Iterator[str]:
        """Ids of the videos that meet a node, of each archive those that are read from it."""
        for reader, elsewhere in readers_of(self._archive):
            sql = self._video_sql(node, metadata_columns(reader.schema("videos")))
            yield from reader.tables.ids("videos", "video_id", [sql]).difference(elsewhere)

    def _video_sql(self, node: Node, metadata: Mapping[str, MetadataColumn]) -> str:
        """The node as a condition over ``videos`` of an archive with these columns of metadata."""
        if not isinstance(node, Condition):
            joint = " AND " if isinstance(node, AllOf) else " OR "
            return joint.join(f"({self._video_sql(part, metadata)})" for part in node.parts)
        name = node.name.casefold()
        if name in VIDEO_COLUMNS:
            return sql_condition(name, VIDEO_COLUMNS[name], node, self._text)
        is_meta = node.names[0].casefold() == _META and len(node.names) > 1
        key = self._metadata_key(".".join(node.names[1:]) if is_meta else node.name)
        if key is None:
            raise refusal(self._text, node.place, self._unknown(node.name))
        if key not in metadata:
            # Another of several archives has it: here no video has a value.
            return "true" if node.operator == "IS NULL" else "false"
        return sql_condition(metadata[key].column, metadata[key].kind, node, self._text)

    def _metadata_key(self, wanted: str) -> str | None:
        if wanted in self._metadata:
            return wanted
        alike = [key for key in self._metadata if key.casefold() == wanted.casefold()]
        return alike[0] if len(alike) == 1 else None

    def _unknown(self, name: str) -> str:
        columns = known_columns(self._archive)
        near = difflib.get_close_matches(name, columns, 1)
        said = f"there is no column {name!r}"
        if near:
            said += f" (did you mean {near[0]}?)"
        said += "; the columns are " + ", ".join(f"{known} ({kind})" for known, kind in columns.items())
        for reader, _ in readers_of(self._archive):
            videos = reader.tables.dataset("videos")
            if not metadata_columns(videos.schema) and has_untyped_metadata(videos):
                said += f"; the metadata of {reader.root} is not typed yet: run `malmm optimize`"
        return said

    def _of_span(self, condition: Condition) -> Part:
        column = condition.name.casefold()
        if condition.operator in ("IS NULL", "IS NOT NULL"):
            return Either(()) if condition.operator == "IS NULL" else Both(())
        if condition.operator.endswith("LIKE") or not condition.values:
            # Raises.
            sql_condition(column, "seconds", condition, self._text)
        all_hold, simple = comparisons(condition)
        spans = tuple(
            Span(column, sign, seconds(value, condition.name, self._text)) for sign, value in simple
        )
        return Both(spans) if all_hold else Either(spans)

    def _of_text(self, condition: Condition) -> Part:
        before = condition.names[0].casefold()
        column, kind = TEXT_COLUMNS[before]
        name, path = self._prompt_and_path(".".join(condition.names[1:]), before)
        version, task = self._latest(name, condition)
        if path is not None:
            return self._of_value(name, path, version, condition)
        if before in ("label", "score") and task != "classification":
            why = f"{name!r} was no classification: write answer.{written_name(name)}"
            raise refusal(self._text, condition.place, why)
        wanted = f"prompt_version = {text_literal(version)}"
        tables = self._archive.tables
        of_segments = f"{wanted} AND segment_id IS NOT NULL"
        is_null = condition.operator == "IS NULL"
        if not is_null:
            wanted = f"{wanted} AND {sql_condition(column, kind, condition, self._text)}"
        if self._archive.count("annotations", of_segments):
            found = tables.ids("annotations", "segment_id", [wanted])
            return Segments(frozenset(found), others=is_null)
        found = tables.ids("annotations", "video_id", [wanted])
        return Videos(frozenset(self._archive.completed_videos().keys() - found if is_null else found))

    def _timed(self, node: Node) -> str | None:
        """The prompt whose timed records a node is about, and nothing else; None if there is none."""
        if not isinstance(node, Condition):
            found = set(map(self._timed, node.parts))
            return found.pop() if len(found) == 1 else None
        before, *name = node.names
        if before.casefold() != "answer" or not name or node.operator == "IS NULL":
            return None
        prompt, path = self._prompt_and_path(".".join(name), "answer")
        if path is None:
            return None
        version, _ = self._latest(prompt, node)
        return prompt if self._has_records(version) else None

    def _has_records(self, version: str) -> bool:
        if version not in self._are_timed:
            records = f"prompt_version = {text_literal(moments_version(version))}"
            self._are_timed[version] = self._archive.count("annotations", records) > 0
        return self._are_timed[version]

    def _records(self, prompt: str, node: Node, *, others: bool = False) -> Records:
        """The moments of the records that meet a node over one prompt's records, or with ``others`` those of none."""
        first = node
        while not isinstance(first, Condition):
            first = first.parts[0]
        version, _ = self._latest(prompt, first)
        records = moments_version(version)
        columns = ["annotation_id", "video_id", "start_s", "end_s"]
        rows: list[dict[str, Any]] = []
        for reader, elsewhere in readers_of(self._archive):
            sql = self._record_sql(node, reader, version)
            wanted = f"prompt_version = {text_literal(records)} AND ({sql})"
            found = reader.tables.rows("annotations", [wanted], columns).to_pylist()
            rows += [row for row in found if row["video_id"] not in elsewhere]
        return Records.of(records, rows, others=others)

    def _record_sql(self, node: Node, reader: ArchiveReader, version: str) -> str:
        """A node over one prompt's records as a condition over ``annotations`` of one archive."""
        if not isinstance(node, Condition):
            joint = " AND " if isinstance(node, AllOf) else " OR "
            return joint.join(f"({self._record_sql(part, reader, version)})" for part in node.parts)
        prompt, path = self._prompt_and_path(".".join(node.names[1:]), "answer")
        column = column_of(reader, prompt, path or "", version)
        if column is None:
            return "false"
        return sql_condition(column.column, column.kind, node, self._text)

    def _prompt_and_path(self, name: str, before: str) -> tuple[str, str | None]:
        """The prompt that a name means and the path in its answers; None for the text itself."""
        if before != "answer":
            return name, None
        if name not in self._places:
            self._places[name] = self._place_of(name)
        return self._places[name]

    def _place_of(self, name: str) -> tuple[str, str | None]:
        paths = {(prompt, path) for prompt, path, _ in _answer_columns(self._archive)}
        if (name, "") in paths:
            return name, ""
        known = {prompt["prompt_name"] for prompt in self._archive.prompt_versions()} if paths else set()
        if not paths or name in known:
            return name, None
        found = {pair for pair in paths if name == ".".join(pair)} or {
            pair for pair in paths if pair[1] == name
        }
        return found.pop() if len(found) == 1 else (name, None)

    def _of_value(self, prompt: str, path: str, version: str, condition: Condition) -> Part:
        """The segments, or for a prompt of whole videos the videos, with such a value in an answer.

        Without one: of timed records, the moments of none that has a value.
        """
        is_null = condition.operator == "IS NULL"
        if is_null and self._has_records(version):
            return self._records(prompt, replace(condition, operator="IS NOT NULL"), others=True)
        wanted = f"prompt_version = {text_literal(version)}"
        of_segments = self._archive.count("annotations", f"{wanted} AND segment_id IS NOT NULL") > 0
        found: set[str] = set()
        for reader, _ in readers_of(self._archive):
            column = column_of(reader, prompt, path, version)
            if column is None:
                continue
            holds = f"{column.column} IS NOT NULL"
            if not is_null:
                holds = sql_condition(column.column, column.kind, condition, self._text)
            subject = "segment_id" if of_segments else "video_id"
            found |= reader.tables.ids("annotations", subject, [f"{wanted} AND {holds}"])
        if of_segments:
            return Segments(frozenset(found), others=is_null)
        return Videos(frozenset(self._archive.completed_videos().keys() - found if is_null else found))

    def _latest(self, name: str, condition: Condition) -> tuple[str, str]:
        """Version and task of the latest version of a prompt."""
        if name not in self._versions:
            self._versions[name] = self._found_latest(name, condition)
        return self._versions[name]

    def _found_latest(self, name: str, condition: Condition) -> tuple[str, str]:
        columns = ["prompt_version", "task", "created_at"]
        rows = self._archive.tables.rows(
            "annotations", [f"prompt_name = {text_literal(name)} AND {ANSWERS_ONLY}"], columns
        )
        latest = rows.group_by(columns[:2]).aggregate([("created_at", "max")]).sort_by("created_at_max")
        if not latest.num_rows:
            raise refusal(self._text, condition.place, self._unknown(condition.name))
        version, task = (latest[column][-1].as_py() for column in columns[:2])
        return str(version), str(task)


def written_name(name: str) -> str:
    """A name as a filter has it: in double quotes unless it is a plain word."""
    plain = name.isascii() and name.replace("_", "a").replace(".", "a").isalnum() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'
