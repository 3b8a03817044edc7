"""A search with a filter finds what a plain search among the rows that pass it would find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archive_rows import segment, video
from support.filtered_archive import Filtered, make_filtered

from malmm.pipeline.archive.export import texts_of
from malmm.pipeline.archive.filters import scope_of, videos_within
from malmm.pipeline.archive.metadata_values import metadata_of
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.archive.video_selection import select_videos
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.searching import candidates
from malmm.pipeline.searching.candidates import Candidates
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.searcher import Searcher

Row = dict[str, Any]
Truth = Callable[[Row], bool | None]


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    return make_filtered(str(tmp_path_factory.mktemp("filtered") / "archive"))


def compared(key: str, holds: Callable[[Any], bool]) -> Truth:
    """As SQL has it: unknown where there is no value."""
    return lambda row: None if row.get(key) is None else holds(row[key])


#: Conditions, and what they say about a slot.
CONDITIONS: tuple[tuple[str, Truth], ...] = (
    ("camera = 'north'", compared("camera", lambda value: value == "north")),
    ("Camera != 'north'", compared("camera", lambda value: value != "north")),
    ("camera ILIKE 'S%'", compared("camera", lambda value: value == "south")),
    ("meta.camera IS NULL", lambda row: row.get("camera") is None),
    ("take BETWEEN 1 AND 2.5", compared("take", lambda value: value <= 2.5)),
    ("take IN (1, 3)", compared("take", lambda value: value in (1, 3))),
    ("outdoors", compared("outdoors", bool)),
    ("outdoors = 'false'", compared("outdoors", lambda value: not value)),
    ("recorded = '2026-02-01'", compared("recorded", lambda value: value.startswith("2026-02-01"))),
    ("recorded <= '2026-01-01'", compared("recorded", lambda value: value.startswith("2026-01-01"))),
    ("recorded > '2026-02-01 12:00'", compared("recorded", lambda value: value > "2026-02-01 12:00")),
    ('"the crew\'s" = \'Ann; "B"\'', compared("the crew's", lambda value: True)),
    ("uri LIKE '%/1.mp4'", lambda row: row["video"] == 1),
    ("duration_s >= '0:06:40'", lambda row: True),
    ("label.weather = 'rain'", compared("weather", lambda value: value == "rain")),
    ("label.weather IS NULL", lambda row: row["weather"] is None),
    ("score.weather > 0.5", compared("weather", lambda value: True)),
    ("answer.who LIKE '%dog%'", lambda row: "dog" in row["who"]),
    ("answer.mood = 'busy'", lambda row: row["mood"] == "busy"),
    ("start_s < 101", lambda row: row["start_s"] < 101),
    ("start_s >= '1:40'", lambda row: row["start_s"] >= 100),
    ("end_s NOT BETWEEN 2 AND 201", lambda row: not 2 <= row["end_s"] <= 201),
    ("start_s IN (1, 202)", lambda row: row["start_s"] in (1, 202)),
)


def both(left: tuple[str, Truth], right: tuple[str, Truth]) -> tuple[str, Truth]:
    def holds(row: Row) -> bool | None:
        values = (left[1](row), right[1](row))
        return False if False in values else None if None in values else True

    return f"({left[0]} AND {right[0]})", holds


def negated(one: tuple[str, Truth]) -> tuple[str, Truth]:
    return f"NOT ({one[0]})", lambda row: None if (held := one[1](row)) is None else not held


def either(left: tuple[str, Truth], right: tuple[str, Truth]) -> tuple[str, Truth]:
    _, holds = negated(both(negated(left), negated(right)))
    return f"({left[0]} OR {right[0]})", holds


FILTERS = st.recursive(
    st.sampled_from(CONDITIONS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: both(*pair)),
        st.tuples(inner, inner).map(lambda pair: either(*pair)),
        inner.map(negated),
    ),
    max_leaves=4,
)


def similarities(filtered: Filtered, query: np.ndarray, holds: Truth) -> dict[str, float]:
    """The similarity to ``query`` of each slot that passes."""
    similar = (filtered.vectors @ query).max(axis=1)
    rows = zip(filtered.slots, similar.tolist(), strict=True)
    return {row["memory_id"]: value for row, value in rows if holds(row) is True}


@settings(max_examples=60, deadline=None)
@given(chosen=FILTERS, seed=st.integers(0, 99), count=st.sampled_from([1, 5, 100]), few=st.booleans())
def test_what_passes_is_searched(
    filtered: Filtered, chosen: tuple[str, Truth], seed: int, count: int, few: bool
) -> None:
    text, holds = chosen
    within = scope_of(filtered.archive, text)
    passing = {slot["memory_id"] for slot in filtered.slots if holds(slot) is True}
    assert {slot["memory_id"] for slot in filtered.slots if within.holds(slot)} == passing
    videos = {slot["video_id"] for slot in filtered.slots if holds(slot) is True}
    if not within.is_videos:
        assert videos_within(filtered.archive, within) == videos
    query = np.asarray(np.random.default_rng(seed).standard_normal((filtered.vectors.shape[2],)), np.float32)
    query /= np.linalg.norm(query)
    found = Candidates(filtered.archive)
    with pytest.MonkeyPatch.context() as patch:
        if few:
            # As if each set of ids were too large to be a condition.
            patch.setattr(candidates, "IDS_PER_FILTER", 0)
        near = found.slots(query, count, within)
        texts = found.hits("red square", 100, within)
    expected = similarities(filtered, query, holds)
    ids = [f"{slot.segment_id}-{slot.slot:04d}" for slot in near]
    assert len(set(ids)) == len(ids) == min(count, len(expected))
    # Vectors are stored in half precision, in which two may be equally near.
    assert [expected[id] for id in ids] == pytest.approx(sorted(expected.values())[::-1][:count], abs=1e-3)
    # Of texts, all that may be about such a moment.
    assert {hit.segment_id for hit in texts} >= {
        slot["segment_id"] for slot in filtered.slots if holds(slot) is True
    }
    moments = Searcher(filtered.archive).ranked(SearchQuery(text="red square", k=100, where=text), query)
    for moment in moments:
        assert moment.slot is not None
        assert f"{moment.slot.segment_id}-{moment.slot.slot:04d}" in passing
    if not few:
        assert found.slot_count(within) == len(passing)


def test_texts_alone_are_held_to_a_filter_by_their_own_span(filtered: Filtered) -> None:
    def found(where: str) -> set[tuple[str, float]]:
        query = SearchQuery(text="red square", k=100, where=where, signals=("text",))
        return {(each.video_id, each.start_s) for each in Searcher(filtered.archive).ranked(query)}

    assert found("camera = 'south' and start_s < 150") == {(video(1), 0.0), (video(1), 100.0)}
    assert found("camera = 'south' and start_s > 1000") == set()


@pytest.mark.parametrize(
    "where",
    ["camera = 'north'", "label.weather = 'rain' and start_s < 150", "camera = 'south' or length = 9"],
)
def test_several_archives_are_filtered_as_one(filtered: Filtered, tmp_path: Path, where: str) -> None:
    """The videos are in both and read from the first, whatever the second says about them."""
    other = make_filtered(str(tmp_path / "other")).archive
    other.set_metadata({video(1): json.dumps({"camera": "north", "take": "many", "length": 9})})
    query = np.eye(1, filtered.vectors.shape[2], dtype=np.float32)[0]
    one, both = Searcher(filtered.archive), Searcher([filtered.archive.uri, other.uri])
    asked = SearchQuery(text="red square", k=100, where=where)
    in_one = one.ranked(
        SearchQuery(text="red square", k=100, where=where.replace(" or length = 9", "")), query
    )
    assert {(m.video_id, m.start_s) for m in both.ranked(asked, query)} == {
        (m.video_id, m.start_s) for m in in_one
    }
    assert "different types: double and string" in metadata_of(both.archive)["take"].note


def test_lists_of_videos_and_exports_take_the_same_filters(filtered: Filtered) -> None:
    archive = filtered.archive
    where = "label.weather = 'rain' and camera = 'north'"
    rainy = {
        slot["segment_id"]
        for slot in filtered.slots
        if slot["weather"] == "rain" and slot.get("camera") == "north"
    }
    assert set(texts_of(archive, where=where)["segment_id"].to_pylist()) == rainy
    videos = {slot["video_id"] for slot in filtered.slots if slot["segment_id"] in rainy}
    assert set(select_videos(archive, where=where)["video_id"].to_pylist()) == videos
    # A condition of SQL over the table's columns is not read as a filter.
    assert select_videos(archive, condition="start_s < 1")["video_id"].to_pylist()
    assert set(select_videos(archive, condition="answer.mood = 'calm'")["video_id"].to_pylist()) == {
        video(1),
        video(3),
    }
    assert scope_of(archive, None, [video(1)]) == Scope.of_videos([video(1)])
    assert scope_of(archive, "camera = 'north'", [video(1)]).is_empty
    [only] = texts_of(
        archive, prompts=["weather"], where=f"video_id = '{video(0)}' and start_s = 0"
    ).to_pylist()
    assert only["segment_id"] == segment(0)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "kamera = 'north'",
            "at character 1.*no column 'kamera' .did you mean camera.*take .double.*label.weather",
        ),
        ("take > 1 and label.mood = 'x'", "at character 14.*no classification: write answer.mood"),
        ("answer.mod = 'x'", "no column 'answer.mod' .did you mean answer.mood"),
        ("take = 'first'", "at character 8.*take is a number: write a value such as 12.5"),
        ("take LIKE '1%'", "LIKE compares texts"),
        ("take", "take is a number, so compare it"),
        ("camera > 5", "camera is text.*write '5'"),
        ("recorded > 'soon'", "recorded is a time: write a value such as '2026-03-01'"),
        ("recorded > 2026", "recorded is a time"),
        ("outdoors > true", "have no order"),
        ("outdoors = 2", "true or false: write a value such as TRUE"),
        ("start_s < 'late'", "number of seconds: write a value such as 90 or '1:30'"),
        ("start_s LIKE '1'", "LIKE compares texts"),
    ],
)
def test_a_wrong_filter_names_the_column_and_the_known_ones(
    filtered: Filtered, where: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        scope_of(filtered.archive, where)


@given(st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_no_value_is_read_as_sql(filtered: Filtered, text: str) -> None:
    """A text in a filter is compared, whatever is in it."""
    written = "'" + text.replace("'", "''") + "'"
    assert scope_of(filtered.archive, f"camera = {written}").is_empty == (text not in ("north", "south"))
    assert not scope_of(filtered.archive, f"camera != {written} or camera = {written}").is_empty
