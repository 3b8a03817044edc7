"""Each timed record of an answer is found, filtered, counted and exported by itself, at its own time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archive_rows import RECIPE, VECTOR_SIZE, commit_rows, segment, video, video_table

from malmm.operators.write import Answer, annotation_rows
from malmm.pipeline.archive.export import export, texts_of
from malmm.pipeline.archive.filters import scope_of
from malmm.pipeline.archive.record_scope import Records
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import ExportConfig
from malmm.pipeline.schema.ids import REPLAY
from malmm.pipeline.schema.prompts import Prompt
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import Carried
from malmm.pipeline.schema.stable_ids import stable_id
from malmm.pipeline.schema.tables import ANNOTATIONS
from malmm.pipeline.searching import candidates
from malmm.pipeline.searching.candidates import Candidates
from malmm.pipeline.searching.facets import facets_of
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.searcher import Searcher

EVENTS = Prompt.typed(
    "events",
    "What happens, and when?",
    {"type": "object", "properties": {"kind": {"enum": ["goal", "foul", "break"]}}, "required": ["kind"]},
    spans=True,
)
#: (video, segment or None for the whole video) to its records: begin, end, kind, supported.
SAID: dict[tuple[int, int | None], list[tuple[float, float, str, bool]]] = {
    (0, 0): [(0.0, 1.5, "goal", True), (1.5, 3.0, "foul", False), (2.2, 2.2, "break", True)],
    (0, 1): [(100.0, 101.0, "goal", False)],
    (0, None): [(3.0, 4.0, "foul", True)],
    (1, 0): [],
}
SLOTS = 4


def answered(
    number: int, part: int | None, records: list[tuple[float, float, str, bool]]
) -> list[dict[str, Any]]:
    row = video_table(number).to_pylist()[0]
    about = Video(**{name: row[name] for name in Video.__dataclass_fields__})
    of = None
    if part is not None:
        start_s = 100.0 * part
        of = Segment(
            segment(part, of_video=number), about.video_id, about.uri, part, start_s, start_s + 100, False
        )
    text = json.dumps(
        [
            {"start_s": begin, "end_s": end, "kind": kind, "supported": supported}
            for begin, end, kind, supported in records
        ],
        separators=(",", ":"),
    )
    end_s = of.end_s if of else 400.0
    return annotation_rows(Carried(about, of, None), [Answer(EVENTS, text)], RECIPE, mode=REPLAY, end_s=end_s)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    made = Archive.create_or_open(str(tmp_path_factory.mktemp("timed") / "archive"), RECIPE, VECTOR_SIZE)
    with made.held():
        commit_rows(made, 0, 1, slots=SLOTS)
        commit_rows(made, 0, of_video=1, slots=SLOTS)
        made.put_videos(video_table(0, 1))
        rows = [row for (number, part), records in SAID.items() for row in answered(number, part, records)]
        made.add_annotations(pa.Table.from_pylist(rows, schema=ANNOTATIONS))
    return made


GOAL, FOUL = "answer.events.kind = 'goal'", "answer.kind = 'foul'"
#: What slots pass, by the second at which they begin: those of video 0, and those of video 1.
FILTERS: list[tuple[str, set[int], set[int]]] = [
    (GOAL, {0, 1, 100}, set()),
    # Both of the same record: the goal of the second segment is not supported.
    (f"{GOAL} AND answer.events.supported", {0, 1}, set()),
    (f"answer.events.supported AND ({GOAL})", {0, 1}, set()),
    (f"{FOUL} AND NOT answer.events.supported", {1, 2}, set()),
    ("answer.kind = 'break'", {2}, set()),
    ("answer.kind IN ('goal', 'break') AND start_s >= 1", {1, 2, 100}, set()),
    (f"{GOAL} OR answer.kind = 'break'", {0, 1, 2, 100}, set()),
    (f"{GOAL} OR start_s = 3", {0, 1, 3, 100}, {3}),
    (f"NOT ({GOAL} AND answer.events.supported)", {1, 2, 3, 100}, set()),
    ("answer.events.kind IS NOT NULL", {0, 1, 2, 3, 100}, set()),
    ("answer.events.kind IS NULL", {101, 102, 103}, {0, 1, 2, 3}),
    (f"{GOAL} AND uri LIKE '%/1.mp4'", set(), set()),
    ("answer.kind = 'offside'", set(), set()),
]


@pytest.mark.parametrize(("where", "first", "second"), FILTERS)
@pytest.mark.parametrize("many", [False, True])
def test_a_filter_leaves_the_moments_of_the_records_that_meet_it(
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    first: set[int],
    second: set[int],
    many: bool,
) -> None:
    if many:
        # As if there were too many records to be a condition.
        monkeypatch.setattr(candidates, "IDS_PER_FILTER", 0)
    within = scope_of(archive, where)
    query = np.eye(1, VECTOR_SIZE, dtype=np.float32)[0]
    near = Candidates(archive).slots(query, 99, within)
    expected = {(video(0), float(at)) for at in first} | {(video(1), float(at)) for at in second}
    assert {(slot.video_id, slot.start_s) for slot in near} == expected
    assert within.is_empty == (not expected and "uri" not in where)


@pytest.mark.parametrize(
    ("where", "kinds"),
    [
        (None, [("goal", 0.0), ("foul", 1.5), ("break", 2.2), ("foul", 3.0), ("goal", 100.0)]),
        (GOAL, [("goal", 0.0), ("goal", 100.0)]),
        # The break goes on during a foul, and is none.
        (FOUL, [("foul", 1.5), ("foul", 3.0)]),
        ("answer.events.supported", [("goal", 0.0), ("break", 2.2), ("foul", 3.0)]),
        ("answer.kind IS NULL", []),
    ],
)
def test_of_the_records_themselves_those_that_meet_it_are_exported(
    archive: Archive, where: str | None, kinds: list[tuple[str, float]]
) -> None:
    rows = texts_of(archive, prompts=["events"], scopes=["span"], where=where).to_pylist()
    assert [(json.loads(row["text"])["kind"], row["start_s"]) for row in rows] == kinds


def test_words_find_a_record_at_its_own_time_and_only_those_that_pass(archive: Archive) -> None:
    def found(where: str | None) -> set[tuple[float, float]]:
        query = SearchQuery(text="foul", k=20, where=where, signals=("text",))
        ranked = Searcher(archive).ranked(query)
        return {
            (each.start_s, each.end_s) for each in ranked if each.text and each.text.startswith('{"kind"')
        }

    assert found(None) == {(1.5, 3.0), (3.0, 4.0)}
    assert found("answer.events.supported") == {(3.0, 4.0)}
    assert found(GOAL) == set()


def test_facets_count_each_record_at_a_moment_once_and_their_filter_leaves_those_moments(
    archive: Archive,
) -> None:
    query = np.eye(1, VECTOR_SIZE, dtype=np.float32)[0]
    searcher = Searcher(archive)
    moments = searcher.ranked(SearchQuery(text="nothing", k=50, signals=("vectors",)), query)
    facets = {
        facet.name: {each.value: each for each in facet.values} for facet in facets_of(archive, moments)
    }
    kinds = facets["answer.events.kind"]

    def at(kind: str) -> int:
        times = [
            (begin, end)
            for own in (SAID[0, 0], SAID[0, 1], SAID[0, None])
            for begin, end, *what in own
            if what[0] == kind
        ]
        spans = [(each.start_s, each.end_s) for each in moments if each.video_id == video(0)]
        return sum(any(begin <= last and first <= end for first, last in times) for begin, end in spans)

    assert {kind: each.count for kind, each in kinds.items()} == {
        kind: at(kind) for kind in ("goal", "foul", "break")
    }
    for each in kinds.values():
        left = searcher.ranked(
            SearchQuery(text="nothing", k=50, signals=("vectors",), where=each.where), query
        )
        assert left
        assert {moment.video_id for moment in left} == {video(0)}


def test_subtitles_have_each_record_in_words_and_not_their_list(archive: Archive, tmp_path: Path) -> None:
    report = export(ExportConfig(archive.root, "srt", str(tmp_path), prompts=("events",)))
    [path] = map(Path, report.files)
    assert path.name == "0.srt"
    cues = path.read_text().split("\n\n")
    # A cue without length cannot be shown.
    assert [cue.split("\n")[1:3] for cue in cues] == [
        ["00:00:00,000 --> 00:00:01,500", "kind: goal"],
        ["00:00:01,500 --> 00:00:03,000", "kind: foul (time not in memory)"],
        ["00:00:03,000 --> 00:00:04,000", "kind: foul"],
        ["00:01:40,000 --> 00:01:41,000", "kind: goal (time not in memory)"],
    ]


def test_a_later_version_takes_the_place_of_its_prompts_records_in_filters_and_exports(
    archive: Archive, tmp_path: Path
) -> None:
    copy = Archive.open(str(shutil.copytree(archive.root, tmp_path / "copy")))
    later = Prompt.typed("events", "What happens?", json.loads(EVENTS.schema), spans=True)
    [about] = [row for row in answered(0, 0, []) if row["task"] == "record"]
    text = '[{"start_s":50.0,"end_s":51.0,"kind":"goal","supported":true}]'
    row = video_table(0).to_pylist()[0]
    of = Video(**{name: row[name] for name in Video.__dataclass_fields__})
    part = Segment(str(about["segment_id"]), of.video_id, of.uri, 0, 0.0, 100.0, False)
    rows = annotation_rows(Carried(of, part, None), [Answer(later, text)], RECIPE, mode=REPLAY, end_s=100.0)
    copy.add_annotations(pa.Table.from_pylist(rows, schema=ANNOTATIONS))
    assert texts_of(copy, scopes=["span"])["start_s"].to_pylist() == [50.0]
    assert len(texts_of(copy, scopes=["span"], all_versions=True)) == 6
    assert scope_of(copy, GOAL).holds(
        {"video_id": video(0), "segment_id": None, "start_s": 50.5, "end_s": 52.0}
    )
    assert not scope_of(copy, GOAL).holds(
        {"video_id": video(0), "segment_id": None, "start_s": 0.0, "end_s": 1.0}
    )


TIMES = st.integers(0, 12).map(lambda half: half / 2)
SPANS = st.tuples(st.integers(0, 2), TIMES, TIMES).map(lambda one: (one[0], *sorted(one[1:])))


@settings(max_examples=25, deadline=None)
@given(records=st.lists(SPANS, max_size=6), others=st.booleans())
def test_rows_and_sql_agree(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[int, float, float]],
    others: bool,
) -> None:
    version = stable_id("records")
    versions = (version, stable_id("b"), None)
    spans = [(s / 2, e / 2) for s in range(0, 13, 2) for e in range(s, 13, 3)]
    rows = [
        {
            "annotation_id": stable_id("row", 3 * place + which),
            "prompt_version": other,
            "video_id": video(place % 3),
            "start_s": begin,
            "end_s": end,
        }
        for place, (begin, end) in enumerate(spans)
        for which, other in enumerate(versions)
    ]
    made = [
        # Every third row is of the records' version.
        {"annotation_id": stable_id("row", 3 * n), "video_id": video(of), "start_s": begin, "end_s": end}
        for n, (of, begin, end) in enumerate(records)
    ]
    part = Records.of(version, made, others=others)
    dataset = lance.write_dataset(
        pa.Table.from_pylist(rows), str(tmp_path_factory.mktemp("rows") / "t.lance")
    )
    for texts in (False, True):
        found = dataset.to_table(columns=["annotation_id"], filter=part.sql(texts=texts))
        of_sql = set(found["annotation_id"].to_pylist())
        if texts:
            assert of_sql == {row["annotation_id"] for row in rows if part.may_hold(row)}
        else:
            # Slots have no version.
            bare = [{k: v for k, v in row.items() if k != "prompt_version"} for row in rows]
            assert of_sql == {row["annotation_id"] for row in bare if part.holds(row)}


def test_very_many_records_are_still_a_condition(tmp_path: Path) -> None:
    made = [
        {"annotation_id": stable_id(n), "video_id": video(n % 7), "start_s": 2.0 * n, "end_s": 2.0 * n + 1}
        for n in range(3000)
    ]
    rows = [{"video_id": video(n % 7), "start_s": float(n), "end_s": n + 0.5} for n in range(200)]
    dataset = lance.write_dataset(pa.Table.from_pylist(rows), str(tmp_path / "t.lance"))
    part = Records.of(stable_id("records"), made)
    found = dataset.to_table(filter=part.sql()).to_pylist()
    assert found == [row for row in rows if part.holds(row)] != []
