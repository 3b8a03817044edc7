"""Typed answers from the command line to filters and facets, with the demo model, in an archive that 0.1 wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from support.archive_contents import versions
from support.inline_stages import InlineStages
from support.old_archive import unpacked
from support.processes import run_here

from malmm.pipeline.archive.answer_columns import answer_columns
from malmm.pipeline.archive.export import texts_of
from malmm.pipeline.archive.filters import known_columns, scope_of
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.searching.facets import facets_of
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.searcher import Searcher

SCENE = {
    "type": "object",
    "properties": {
        "weather": {"enum": ["rain", "sun"]},
        "sky": {
            "type": "object",
            "properties": {"clouds": {"type": ["integer", "null"], "minimum": 0, "maximum": 9}},
            "required": ["clouds"],
        },
        "indoors": {"type": "boolean"},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "things": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 1},
    },
    "required": ["weather", "sky", "indoors", "share"],
    "additionalProperties": False,
}
RECORD = {"type": "object", "properties": {"kind": {"enum": ["in", "out"]}}, "required": ["kind"]}
RECORDS = {"type": "array", "items": RECORD, "maxItems": 2}


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArchiveReader]:
    """An archive with typed answers about every segment, and timed records of every segment and video."""
    folder = tmp_path_factory.mktemp("typed")
    place = unpacked(folder)
    (folder / "scene.json").write_text(json.dumps(SCENE))
    (folder / "record.json").write_text(json.dumps(RECORDS))
    with pytest.MonkeyPatch.context() as patched:
        InlineStages().install(patched)
        for options in (
            ("--prompt", "scene=What is shown?", "--schema", folder / "scene.json", "--scope", "segment"),
            ("--prompt", "events=What happens when?", "--schema", folder / "record.json", "--spans"),
        ):
            done = run_here("annotate", "--archive", place, *options, "--quiet", "--json")
            assert done.returncode == 0, done.stderr
            said = json.loads(done.stdout)
            assert said["texts"] == said["missing"] > 0
        yield ArchiveReader.open(str(place))


def rows_of(archive: ArchiveReader, **wanted: object) -> list[dict[str, object]]:
    rows = archive.tables.rows("annotations").to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_answers_are_json_and_columns(typed: ArchiveReader) -> None:
    rows = rows_of(typed, prompt_name="scene")
    assert len(rows) == typed.count("segments")
    columns = {each.path: each.column for each in answer_columns(typed.schema("annotations")).values()}
    for row in rows:
        answer = json.loads(str(row["text"]))
        jsonschema.validate(answer, SCENE)
        assert row["task"] == "record"
        for path in ("weather", "indoors", "share"):
            assert row[columns[path]] == answer[path]
    assert "things" not in columns


def test_filters_and_facets_see_values(typed: ArchiveReader) -> None:
    rows = rows_of(typed, prompt_name="scene")
    answers = {row["segment_id"]: json.loads(str(row["text"])) for row in rows}
    assert known_columns(typed)["answer.scene.share"] == "double"
    for where, holds in (
        ("answer.scene.weather = 'rain'", lambda of: of["weather"] == "rain"),
        # One prompt alone has it.
        ("answer.weather != 'rain' and answer.scene.share >= 0", lambda of: of["weather"] != "rain"),
        ("not answer.indoors", lambda of: not of["indoors"]),
        ("answer.scene.share between 0.2 and 0.9", lambda of: 0.2 <= of["share"] <= 0.9),
        ("answer.sky.clouds is null", lambda of: of["sky"]["clouds"] is None),
    ):
        scope = scope_of(typed, where)
        expected = {segment for segment, answer in answers.items() if holds(answer)}
        found = {
            segment
            for segment in answers
            if scope.holds({"segment_id": segment, "video_id": "", "start_s": 0.0, "end_s": 0.0})
        }
        assert found == expected, where
    moments = Searcher(typed).ranked(SearchQuery(text="a star", k=5))
    [counted] = [facet for facet in facets_of(typed, moments) if facet.name == "answer.scene.weather"]
    for value in counted.values:
        same = [m for m in moments if m.slot and answers[m.slot.segment_id]["weather"] == value.value]
        assert value.count == len(same) > 0
        assert value.where == f"answer.scene.weather = '{value.value}'"


def test_timed_records_lie_in_their_segment_and_say_what_memory_supports(typed: ArchiveReader) -> None:
    answers = {row["annotation_id"]: row for row in rows_of(typed, prompt_name="events", task="record")}
    moments = rows_of(typed, prompt_name="events", task="moment")
    assert len(moments) == sum(len(json.loads(str(row["text"]))) for row in answers.values()) > 0
    slots = typed.memory_rows(typed.completed_segments(), ("segment_id", "start_s", "end_s", "timestamp_s"))
    times: dict[str, list[float]] = {}
    for slot in slots.to_pylist():
        times.setdefault(slot["segment_id"], []).extend((slot["start_s"], slot["end_s"], slot["timestamp_s"]))
    [column] = [
        each.column
        for each in answer_columns(typed.schema("annotations")).values()
        if (each.prompt, each.path) == ("events", "supported")
    ]
    for moment in moments:
        answer = answers[str(moment["annotation_id"]).rpartition("-")[0]]
        begin, end = float(str(moment["start_s"])), float(str(moment["end_s"]))
        assert float(str(answer["start_s"])) <= begin <= end <= float(str(answer["end_s"]))
        jsonschema.validate({"kind": json.loads(str(moment["text"]))["kind"]}, RECORD)
        segment = moment["segment_id"]
        if segment is not None:
            near = all(any(abs(each - time) <= 0.5 for each in times[str(segment)]) for time in (begin, end))
            assert near or not moment[column]
    exported = texts_of(typed, prompts=["events"], scopes=["span"]).to_pylist()
    assert len(exported) == len(moments)
    found = scope_of(typed, "answer.events.supported = true or answer.events.supported = false")
    assert not found.is_empty


def test_only_what_is_missing_is_made_and_a_changed_schema_is_another_version(
    typed: ArchiveReader, tmp_path: Path
) -> None:
    path = tmp_path / "scene.json"
    command: list[str | Path] = [
        "annotate",
        "--archive",
        typed.root,
        "--prompt",
        "scene=What is shown?",
        "--schema",
        path,
        "--json",
    ]
    path.write_text(json.dumps(SCENE | {"title": "A note changes nothing"}))
    before = versions(typed)
    again = run_here(*command, "--scope", "segment")
    assert json.loads(again.stdout)["missing"] == 0
    assert versions(typed) == before
    path.write_text(json.dumps(SCENE["properties"]["weather"]))  # type: ignore[index]
    refused = run_here(*command)
    assert refused.returncode == 2
    assert "another schema" in refused.stderr
    made = json.loads(run_here(*command, "--new-version", "--scope", "segment").stdout)
    assert made["texts"] == typed.count("segments")
    rain = [row for row in rows_of(typed, prompt_name="scene") if row["text"] == '"rain"']
    scope = scope_of(typed, "answer.scene = 'rain'")
    held = {str(row["segment_id"]) for row in rain}
    assert sum(getattr(part, "size", 0) for part in scope.parts) == len(held)


def test_what_is_wrong_is_said_before_anything_runs(
    typed: ArchiveReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = tmp_path / "s.json"
    command: list[str | Path] = [
        "annotate",
        "--archive",
        typed.root,
        "--prompt",
        "x=What?",
        "--schema",
        schema,
    ]
    for text, said in (
        (None, "cannot be read"),
        ("{", "it is not JSON"),
        ('{"type": "string"}', "#: it needs maxLength"),
        ('{"type": "string", "maxLength": 3, "pattern": "a"}', "'pattern' cannot be held while decoding"),
    ):
        if text is not None:
            schema.write_text(text)
        refused = run_here(*command)
        assert refused.returncode == 2
        assert said in refused.stderr
    schema.write_text('{"enum": [1, 2]}')
    assert "need the schema of an object" in run_here(*command, "--spans").stderr
    monkeypatch.setitem(sys.modules, "llguidance", None)
    missing = run_here(*command)
    assert missing.returncode == 2
    assert "the schema of prompt 'x' needs llguidance, which is not installed: pip install" in missing.stderr
    assert "[typed]" in missing.stderr
