from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from support.archive_rows import RECIPE, annotation, annotation_table, rows, segment

from malmm.pipeline.archive.index_states import IndexState, index_states
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.search_indexes import EXACT_ROWS
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables

QUERIES, SIZE = 4, 32


def many_slots(count: int, *, seed: int) -> pa.Table:
    """Slots with random unit vectors and next to nothing else."""
    chance = np.random.default_rng(seed)
    vectors = chance.standard_normal((count, QUERIES, SIZE)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    segment_id = f"{seed:024x}"
    one = rows(0)["memories"].slice(0, 1).to_pylist()[0] | {
        "tokens": b"",
        "sizes": [1],
        "segment_id": segment_id,
    }
    schema = tables.memories_schema(SIZE)
    repeated = pa.Table.from_pylist([one | {"vectors": None}], schema=schema).take(np.zeros(count, np.int64))
    offsets = np.arange(count + 1, dtype=np.int32) * QUERIES
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).reshape(-1)), SIZE)
    columns = {
        "memory_id": [ids.memory_id(segment_id, place) for place in range(count)],
        "slot": range(count),
        "vectors": pa.ListArray.from_arrays(offsets, flat),
    }
    for name, values in columns.items():
        field = schema.field(name)
        column = values.cast(field.type) if isinstance(values, pa.Array) else pa.array(values, field.type)
        repeated = repeated.set_column(schema.get_field_index(name), field, column)
    return repeated


def add(archive: Archive, count: int, *, seed: int) -> None:
    segment = rows(0)["segments"].to_pylist()[0] | {"segment_id": f"{seed:024x}"}
    written = {
        "memories": many_slots(count, seed=seed),
        "annotations": rows(0)["annotations"].slice(0, 0),
        "segments": pa.Table.from_pylist([segment], schema=tables.SEGMENTS),
    }
    archive.commit(write_rows(archive.uri, written))


@pytest.fixture
def archive(tmp_path) -> Archive:
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, SIZE)


def words(*numbers: int) -> dict[str, pa.Table]:
    """Segments with texts and no memory."""
    return rows(*numbers) | {"memories": many_slots(0, seed=0)}


def nearest(archive: Archive, query: np.ndarray, *, exact: bool, k: int = 10) -> list[str]:
    asked = archive.table("memories").search(query, vector_column_name="vectors").distance_type("cosine")
    asked = asked.bypass_vector_index() if exact else asked.nprobes(40).refine_factor(5)
    return [row["memory_id"] for row in asked.select(["memory_id", "_distance"]).limit(k).to_list()]


def states(archive: Archive) -> dict[str, IndexState]:
    return {f"{state.table}.{state.column}": state for state in index_states(archive.tables)}


def test_a_new_archive_has_indexes_of_words_alone_which_find_what_comes(archive):
    names = {"annotations.text", "annotations.text_grams"}
    assert {name: state.rows for name, state in states(archive).items()} == dict.fromkeys(names, 0)
    archive.commit(write_rows(archive.uri, words(0, 1)))
    assert {(state.rows, state.rows_unindexed) for state in states(archive).values()} == {(2, 2)}
    found = archive.table("annotations").search("squares", query_type="fts").limit(5).to_list()
    assert len(found) == 2
    assert set(archive.update_indexes()) == names
    assert {(state.rows, state.rows_unindexed) for state in states(archive).values()} == {(2, 0)}
    assert archive.update_indexes() == []


def test_rows_that_come_after_others_went_are_indexed_too(archive):
    archive.commit(write_rows(archive.uri, words(0, 1, 2)))
    archive.update_indexes(at_once=True)
    with archive.held():
        archive.changes.delete("annotations", "segment_id", [segment(0), segment(1)])
    archive.commit(write_rows(archive.uri, words(3)))
    assert {(state.rows, state.rows_unindexed) for state in states(archive).values()} == {(2, 1)}
    assert "annotations.text" in archive.update_indexes(at_once=True)
    assert {(state.rows, state.rows_unindexed) for state in states(archive).values()} == {(2, 0)}


def test_small_tables_are_left_alone(archive):
    add(archive, EXACT_ROWS - 1, seed=1)
    archive.update_indexes(at_once=True)
    assert "memories.vectors" not in states(archive)


def test_large_ones_are_indexed_brought_up_to_date_and_searched_with_what_is_new(archive):
    add(archive, EXACT_ROWS, seed=1)
    told = []
    archive.update_indexes(tell=told.append)
    assert "memories.vectors" in told
    assert "memories.segment_id" in told
    assert "memories.vectors" in states(archive)
    add(archive, 200, seed=2)
    last = f"{2:024x}-0199"
    query = np.asarray(many_slots(200, seed=2)["vectors"][199].as_py()[0], np.float32)
    assert nearest(archive, query, exact=False)[0] == last
    # A few more rows are not worth the trouble until somebody asks for it.
    assert archive.update_indexes() == []
    assert "memories.vectors" in archive.update_indexes(at_once=True)
    assert all(state.rows_unindexed == 0 for state in states(archive).values() if state.table == "memories")
    assert nearest(archive, query, exact=False)[0] == last

    chance = np.random.default_rng(3)
    stored = many_slots(EXACT_ROWS, seed=1)["vectors"]
    same = []
    for place in chance.integers(0, EXACT_ROWS, 20):
        query = np.asarray(stored[int(place)].as_py()[1], np.float32) + chance.normal(0, 0.05, SIZE).astype(
            np.float32
        )
        same.append(nearest(archive, query, exact=True)[0] == nearest(archive, query, exact=False)[0])
    assert np.mean(same) >= 0.9

    archive.compact(at_least=2)
    assert nearest(archive, np.asarray(query), exact=False)[0] == nearest(archive, query, exact=True)[0]
    assert "annotations.text" in states(archive)


def test_texts_that_are_added_later_are_found(archive):
    archive.commit(write_rows(archive.uri, words(0)))
    archive.update_indexes()
    text = annotation("ab" * 12, mode="replay") | {"text": "a violet octagon"}
    archive.add_annotations(annotation_table(text))
    found = archive.table("annotations").search("octagons", query_type="fts").limit(5).to_list()
    assert [row["text"] for row in found] == ["a violet octagon"]
