from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.flow_rows import BROKEN, PROMPTS, failing_row, planned, segment_in, video_at

from malmm.operators.write import Answer, annotation_rows, write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.ids import ONLINE, REPLAY, memory_id, whole_video_subject
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.rows import ANSWERED, RECEIPTS, Carried, carried, rows_table, with_arrays
from malmm.pipeline.schema.stored_tokens import quantized, tokens_at

VECTOR_SIZE = 8
RECIPE = Recipe("debug", "weights", "debug", "weights", 2.0, 5.0, 4, "token", 56)
ROWS = planned(video_at())


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)


def answered(
    row: Carried, *, slots: int = 3, vectors: bool = True, problem: str | None = None
) -> dict[str, Any]:
    segment = row.segment
    assert segment is not None
    generator = np.random.default_rng(segment.index)
    bounds = np.linspace(segment.start_s, segment.end_s, slots + 1).tolist()
    columns = row.columns() | {
        "frame_count": 2 * slots,
        "decoded_end_s": segment.end_s,
        "problem": problem,
        "slots": [
            {
                "start_s": bounds[slot],
                "end_s": bounds[slot + 1],
                "timestamp_s": bounds[slot],
                "frame_count": 2,
                "thumbnail": f"JPEG {slot}".encode(),
            }
            for slot in range(slots)
        ],
        "prompts": [0, 1, 2],
        "texts": ["a caption", "two", "indoors"],
        "scores": [None, None, 0.75],
        "label_scores": [None, None, [0.75, 0.25]],
    }
    arrays: dict[str, np.ndarray] = {
        "tokens": generator.standard_normal((slots, 5, 6)).astype(np.float16),
        "sizes": generator.integers(1, 4, (slots, 5)).astype(np.int32),
    }
    if vectors:
        arrays["vectors"] = generator.standard_normal((slots, 2, VECTOR_SIZE)).astype(np.float16)
    return with_arrays(columns, **arrays)


def write(archive: Archive, *rows: dict[str, Any]) -> pa.Table:
    table = write_segments(
        rows_table(rows, ANSWERED),
        archive=archive.uri,
        prompts=PROMPTS,
        recipe=RECIPE,
        memories=archive.schema("memories"),
    )
    assert table.schema == RECEIPTS
    return table


def receipts(table: pa.Table) -> list[Receipt]:
    return [Receipt(**value) for value in table["receipt"].to_pylist() if value is not None]


def contents(archive: Archive) -> dict[str, list[dict[str, Any]]]:
    """All rows that readers see, tokens apart, without the times at which they were made."""
    segments = archive.segments()
    columns = [name for name in archive.schema("memories").names if name != "tokens"]
    return {
        "segments": segments.to_pylist(),
        "memories": archive.memory_rows(segments["segment_id"].to_pylist(), columns).to_pylist(),
        "annotations": archive.annotations().drop_columns(["created_at"]).to_pylist(),
    }


def test_nothing_is_seen_before_the_receipt_is_committed(archive: Archive) -> None:
    table = write(archive, answered(ROWS[0]))
    assert carried(table) == [ROWS[0]]
    assert all(archive.count(name) == 0 for name in ("segments", "memories", "annotations"))
    archive.commit(receipts(table))
    assert [archive.count(name) for name in ("segments", "memories", "annotations")] == [1, 3, 3]


def test_rows_are_what_was_given(archive: Archive) -> None:
    given = answered(ROWS[1], problem="the file ends")
    table = write(archive, given)
    assert table["problem"][0].as_py() == "the file ends"
    archive.commit(receipts(table))
    segment = ROWS[1].segment
    assert segment is not None
    found = contents(archive)
    assert found["segments"] == [
        {
            "segment_id": segment.segment_id,
            "video_id": segment.video_id,
            "index": 1,
            "start_s": 5.0,
            "end_s": 10.0,
            "frame_count": 6,
            "recipe_id": RECIPE.recipe_id,
        }
    ]
    vectors = np.frombuffer(given["vectors"], np.float16).reshape(given["vectors_shape"])
    sizes = np.frombuffer(given["sizes"], np.int32).reshape(given["sizes_shape"])
    for slot, row in enumerate(found["memories"]):
        assert row["memory_id"] == memory_id(segment.segment_id, slot)
        assert row["slot"] == slot
        assert {name: row[name] for name in given["slots"][slot]} == given["slots"][slot]
        assert row["sizes"] == sizes[slot].tolist()
        assert row["token_shape"] == [5, 6]
        np.testing.assert_array_equal(np.array(row["vectors"], np.float16), vectors[slot])
    [(key, tokens, read_sizes)] = archive.memory_tokens([segment.segment_id])
    assert key == segment.segment_id
    assert tokens.tobytes() == bytes(given["tokens"])
    np.testing.assert_array_equal(read_sizes, sizes)
    assert [(row["prompt_name"], row["text"], row["score"]) for row in found["annotations"]] == [
        ("caption", "a caption", None),
        ("people", "two", None),
        ("place", "indoors", 0.75),
    ]
    for row, prompt in zip(found["annotations"], PROMPTS, strict=True):
        assert row["prompt_version"] == prompt.version
        assert (row["mode"], row["model"], row["task"]) == (ONLINE, "debug", prompt.task)
        assert (row["start_s"], row["end_s"], row["segment_id"]) == (5.0, 10.0, segment.segment_id)


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 6)])
def test_tokens_of_8_bits_are_read_as_they_flowed(tmp_path: Path, shape: tuple[int, ...]) -> None:
    recipe = replace(RECIPE, tokens="int8", token_layers=4 if len(shape) == 3 else 1)
    archive = Archive.create_or_open(str(tmp_path / "int8"), recipe, VECTOR_SIZE)
    numbers, scales = quantized(np.random.default_rng(1).standard_normal((3, *shape)))
    given = with_arrays(answered(ROWS[0]), tokens=numbers, token_scales=scales)
    archive.commit(receipts(write(archive, given)))
    segment = segment_in(given).segment_id
    [(_, tokens, _)] = archive.memory_tokens([segment])
    np.testing.assert_array_equal(tokens, tokens_at(rows_table([given], ANSWERED), 0))
    [second] = archive.slots.slot_tokens([(segment, 1)])
    np.testing.assert_array_equal(second, tokens[1])
    [blob] = archive.table("memories").to_lance().take_blobs("tokens", indices=[0])
    assert len(blob.readall()) == numbers[0].nbytes
    found = archive.memory_rows([segment], ["token_scales"])["token_scales"].to_pylist()
    np.testing.assert_array_equal(np.array(found, np.float16), scales.reshape(3, -1))


def test_a_segment_that_was_cut_short_ends_where_its_frames_do(archive: Archive) -> None:
    archive.commit(receipts(write(archive, answered(ROWS[0]) | {"decoded_end_s": 3.5})))
    found = contents(archive)
    assert found["segments"][0]["end_s"] == 3.5
    assert {row["end_s"] for row in found["annotations"]} == {3.5}


def test_without_a_retrieval_model_vectors_are_null(archive: Archive) -> None:
    archive.commit(receipts(write(archive, answered(ROWS[0], vectors=False))))
    assert [row["vectors"] for row in contents(archive)["memories"]] == [None] * 3


def test_failures_pass_through_untouched(archive: Archive) -> None:
    table = write(archive, failing_row().columns(), answered(ROWS[0]), BROKEN.columns())
    assert carried(table) == [failing_row(), ROWS[0], BROKEN]
    assert [text is None for text in table["receipt"].to_pylist()] == [True, False, True]


def test_one_bad_row_fails_alone(archive: Archive) -> None:
    other_size = answered(ROWS[1])
    other_size |= with_arrays({}, vectors=np.zeros((3, 2, VECTOR_SIZE + 1), np.float16))
    table = write(archive, answered(ROWS[0]), other_size, answered(ROWS[2]))
    held = carried(table)
    assert [row.failure is None for row in held] == [True, False, True]
    assert held[1].failure is not None
    assert held[1].failure.stage == "write"
    assert held[1].segment == ROWS[1].segment
    archive.commit(receipts(table))
    assert archive.count("segments") == 2


def test_a_store_that_cannot_be_written_fails_its_rows(archive: Archive) -> None:
    table = write_segments(
        rows_table([answered(ROWS[0])], ANSWERED),
        archive=f"{archive.uri}/nowhere",
        prompts=PROMPTS,
        recipe=RECIPE,
        memories=archive.schema("memories"),
    )
    [row] = carried(table)
    assert row.failure is not None
    assert (row.failure.stage, row.failure.kind) == ("write", "ArchiveError")
    assert row.segment == ROWS[0].segment


def test_a_batch_writes_what_each_row_writes_alone(tmp_path: Path) -> None:
    rows = [answered(row) for row in ROWS]
    found = []
    for name, batches in (("together", [rows]), ("alone", [[row] for row in rows])):
        archive = Archive.create_or_open(str(tmp_path / name), RECIPE, VECTOR_SIZE)
        for batch in batches:
            archive.commit(receipts(write(archive, *batch)))
        found.append(contents(archive))
    assert found[0] == found[1]
    assert len(found[0]["segments"]) == 3


def test_a_whole_video_is_a_subject_of_its_own() -> None:
    def rows(row: Carried, mode: str) -> list[dict[str, Any]]:
        return annotation_rows(row, [Answer(PROMPTS[0], "a text")], RECIPE, mode=mode, end_s=12.0)

    whole = Carried(video_at(), None, None)
    [about_whole] = rows(whole, REPLAY)
    assert about_whole["segment_id"] is None
    assert (about_whole["start_s"], about_whole["end_s"]) == (0.0, 12.0)
    assert datetime.now(UTC) - about_whole["created_at"] < timedelta(minutes=5)
    changed = Carried(video_at(fingerprint="second"), None, None)
    ids = {
        rows(row, mode)[0]["annotation_id"]
        for row in (whole, changed, ROWS[0], ROWS[1])
        for mode in (REPLAY, ONLINE)
    }
    assert len(ids) == 8
    assert whole_video_subject("a", "b", "c") != whole_video_subject("a", "c", "b")
