from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.flow_rows import (
    BROKEN,
    PROMPTS,
    decoded,
    decoded_segments,
    decoded_table,
    failing_row,
    picture,
    planned,
    segment_in,
    video_at,
)
from support.models import random_frames

from malmm.model.families.family import Encoded
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import Memory
from malmm.operators.encode import EncodeSegments
from malmm.pipeline.schema.rows import ENCODED, array_at, carried

LENGTH = 4
ARRAYS = {"tokens": np.float16, "sizes": np.int32, "vectors": np.float16, "query_output": np.float32}


def actor(**changes: Any) -> EncodeSegments:
    options: dict[str, Any] = {
        "model": "debug",
        "retrieval_model": None,
        "settings": MemorySettings(LENGTH, "token"),
        "prompts": PROMPTS,
        "device": "cpu",
    }
    return EncodeSegments(**(options | changes))


@pytest.fixture(scope="module")
def encode() -> EncodeSegments:
    return actor()


def arrays(table: pa.Table, row: int) -> dict[str, np.ndarray]:
    return {name: array_at(table, name, row, kind) for name, kind in ARRAYS.items()}


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """Equal up to what another batch size does to single precision, which halves hardly see."""
    np.testing.assert_array_equal(one["sizes"], other["sizes"])
    for name, tolerance in (("tokens", 4e-3), ("vectors", 2e-3), ("query_output", 1e-4)):
        np.testing.assert_allclose(
            one[name].astype(np.float32), other[name].astype(np.float32), rtol=tolerance, atol=tolerance
        )


def test_memory_vectors_and_query_outputs(encode: EncodeSegments) -> None:
    lengths = [9, 1, 3, 6]
    rows = decoded_segments(lengths)
    table = encode(decoded_table(rows))
    assert table.schema == ENCODED
    assert table["frame_count"].to_pylist() == lengths
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        made = arrays(table, index)
        slots = min(length, LENGTH)
        assert made["tokens"].shape[0] == len(table["slots"][index].as_py()) == slots
        assert made["sizes"].shape == made["tokens"].shape[:2]
        assert (made["sizes"].sum(axis=0) == length).all()
        norms = np.linalg.norm(made["vectors"].astype(np.float64), axis=-1)
        np.testing.assert_allclose(norms, 1, atol=2e-3)
        assert made["vectors"].shape[0] == slots
        assert made["query_output"].shape[0] == len(PROMPTS)
        assert table["prompts"][index].as_py() == [0, 1, 2]
        assert table["decoded_end_s"][index].as_py() == row["decoded_end_s"]
        assert all(np.isfinite(array.astype(np.float64)).all() for array in made.values())


@pytest.mark.parametrize("policy", ["token", "frame", "average"])
def test_slots_tile_the_segment(policy: str) -> None:
    rows = decoded_segments([12, 4, 2, 1], seed=3)
    table = actor(settings=MemorySettings(LENGTH, policy))(decoded_table(rows))
    for row, slots in zip(rows, table["slots"].to_pylist(), strict=True):
        segment = segment_in(row)
        assert slots[0]["start_s"] == segment.start_s
        assert slots[-1]["end_s"] == segment.end_s
        for before, after in itertools.pairwise(slots):
            assert before["end_s"] == after["start_s"]
        for slot in slots:
            assert slot["start_s"] <= slot["timestamp_s"] < slot["end_s"]
            assert slot["timestamp_s"] in row["timestamps_s"]
        assert sum(slot["frame_count"] for slot in slots) == len(row["timestamps_s"])


def test_a_segment_that_was_cut_short_ends_where_its_frames_do(encode: EncodeSegments) -> None:
    [row] = decoded_segments([6])
    row |= {"decoded_end_s": 3.5, "problem": "the file ends at 3.5 s of 5.0 s"}
    table = encode(decoded_table([row]))
    assert table["slots"][0].as_py()[-1]["end_s"] == 3.5
    assert table["decoded_end_s"][0].as_py() == 3.5
    assert table["problem"][0].as_py() == "the file ends at 3.5 s of 5.0 s"


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (1920, 1080), (50, 50), (4000, 2)])
def test_thumbnails_are_pictures_in_the_shape_of_the_video(
    encode: EncodeSegments, width: int, height: int
) -> None:
    frames = np.zeros((6, 56, 56, 3), np.uint8)
    frames[:, :, :28] = (250, 10, 10)
    row = planned(video_at(width=width, height=height))[0]
    table = encode(decoded_table([decoded(row, frames)]))
    for slot in table["slots"][0].as_py():
        image = picture(slot["thumbnail"])
        assert max(image.size) == 56
        assert image.width / image.height == pytest.approx(width / height, rel=0.02) or min(image.size) == 1
        red, _, blue = image.getpixel((1, image.height // 2))
        assert red > 150 > blue


def test_a_thumbnail_is_the_frame_at_the_slots_time(encode: EncodeSegments) -> None:
    frames = np.stack([np.full((56, 56, 3), 8 * number, np.uint8) for number in range(30)])
    row = decoded(planned(video_at())[0], frames)
    for slot in encode(decoded_table([row]))["slots"][0].as_py():
        number = row["timestamps_s"].index(slot["timestamp_s"])
        assert picture(slot["thumbnail"]).getpixel((20, 20))[0] == pytest.approx(8 * number, abs=3)


def test_failures_pass_through_untouched(encode: EncodeSegments) -> None:
    [good] = decoded_segments([3])
    table = encode(decoded_table([failing_row().columns(), good, BROKEN.columns()]))
    assert table.schema == ENCODED
    held = carried(table)
    assert (held[0], held[2]) == (failing_row(), BROKEN)
    assert held[1].failure is None
    assert [scalar.is_valid for scalar in table["tokens"]] == [False, True, False]
    only_failures = encode(decoded_table([failing_row().columns(), BROKEN.columns()]))
    assert carried(only_failures) == [failing_row(), BROKEN]


@pytest.mark.parametrize(
    "frames",
    [np.empty((0, 56, 56, 3), np.uint8), random_frames(1, 4, side=40)],
    ids=["no frames", "another size"],
)
def test_one_bad_segment_fails_alone(encode: EncodeSegments, frames: np.ndarray) -> None:
    good = decoded_segments([5, 3], seed=4)
    bad = decoded(planned(video_at("/videos/bad.mp4"))[0], frames)
    table = encode(decoded_table([good[0], bad, good[1]]))
    held = carried(table)
    assert [row.failure is None for row in held] == [True, False, True]
    assert held[1].failure is not None
    assert held[1].failure.stage == "encode"
    assert held[1].failure.uri == "/videos/bad.mp4"
    assert held[1].segment == segment_in(bad)
    assert held[1].failure.message
    for place, row in ((0, good[0]), (2, good[1])):
        assert_close(arrays(table, place), arrays(encode(decoded_table([row])), 0))


def test_memory_that_runs_out_for_a_batch_does_not_for_each_alone(
    encode: EncodeSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = decoded_segments([4, 6, 2], seed=5)
    expected = [encode(decoded_table([row])) for row in rows]
    whole = encode.encoder.encode
    calls = []

    def small(frames: list[np.ndarray], *arguments: Any, **named: Any) -> list[Encoded]:
        calls.append(len(frames))
        if len(frames) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole(frames, *arguments, **named)

    monkeypatch.setattr(encode.encoder, "encode", small)
    assert encode(decoded_table(rows)) == pa.concat_tables(expected)
    assert calls == [3, 1, 1, 1]


def test_vectors_that_cannot_be_made_fail_their_segment_alone(
    encode: EncodeSegments, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval = encode.retrieval
    assert retrieval is not None
    whole = retrieval.of_slots

    def small(memory: Memory, *arguments: Any) -> torch.Tensor:
        if len(memory) == 3:
            raise torch.OutOfMemoryError("out of memory")
        return whole(memory, *arguments)

    monkeypatch.setattr(retrieval, "of_slots", small)
    held = carried(encode(decoded_table(decoded_segments([2, 3, 4]))))
    assert [row.failure is None for row in held] == [True, False, True]


def test_a_batch_gives_what_each_segment_gives_alone(encode: EncodeSegments) -> None:
    rows = decoded_segments([7, 2, 11, 7], seed=6)
    together = encode(decoded_table(rows))
    for index, row in enumerate(rows):
        alone = encode(decoded_table([row]))
        assert_close(arrays(together, index), arrays(alone, 0))
        assert together["slots"][index] == alone["slots"][0]


def test_batches_one_after_the_other_give_what_fresh_actors_give() -> None:
    first, second = decoded_segments([9, 3], seed=7), decoded_segments([2, 8], seed=8)
    one = actor()
    for rows in (first, second, first):
        assert one(decoded_table(rows)) == actor()(decoded_table(rows))


def test_without_a_retrieval_model_there_are_no_vectors() -> None:
    table = actor(retrieval_model="none")(decoded_table(decoded_segments([3])))
    assert table.schema == ENCODED
    assert not table["vectors"][0].is_valid
    assert table["tokens"][0].is_valid
