from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.flow_rows import (
    BROKEN,
    PROMPTS,
    decoded,
    decoded_table,
    failing_row,
    planned,
    video_at,
)
from support.models import give_positions, random_frames, random_table

from malmm.model.checkpoints.debug import save_debug_checkpoint
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import Memory, merge_memories
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.rows import REPLAYED, TO_REPLAY, Carried, array_at, carried, rows_table

SETTINGS = MemorySettings(4, "token")
RECIPE = Recipe("debug", "weights", "debug", "weights", 2.0, 5.0, 4, "token", 56)
ROWS = planned(video_at())
WHOLE = Carried(video_at(), None, None)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """One video of three segments, of 6, 3 and 4 slots' worth of frames."""
    made = Archive.create_or_open(str(tmp_path_factory.mktemp("archive")), RECIPE, 32)
    encode = EncodeSegments(
        model="debug", retrieval_model=None, settings=SETTINGS, prompts=PROMPTS, device="cpu"
    )
    generate = GenerateTexts(model="debug", prompts=PROMPTS, max_new_tokens=3, device="cpu")
    rows = [
        decoded(row, random_frames(n, count))
        for n, (row, count) in enumerate(zip(ROWS, (6, 3, 4), strict=True))
    ]
    table = write_segments(
        generate(encode(decoded_table(rows))),
        archive=made.uri,
        prompts=PROMPTS,
        recipe=RECIPE,
        memories=made.schema("memories"),
    )
    made.commit(Receipt(**value) for value in table["receipt"].to_pylist())
    return made


def actor(archive: Archive) -> ReplayPrompts:
    return ReplayPrompts(archive=archive.uri, model="debug", settings=SETTINGS, prompts=PROMPTS, device="cpu")


@pytest.fixture(scope="module")
def replay(archive: Archive) -> ReplayPrompts:
    return actor(archive)


def ids(*rows: Carried) -> list[str]:
    return [row.segment.segment_id for row in rows if row.segment is not None]


def work(row: Carried, segment_ids: list[str], prompts: list[int]) -> dict[str, Any]:
    return row.columns() | {"segment_ids": segment_ids, "prompts": prompts}


def table_of(*rows: dict[str, Any]) -> pa.Table:
    return rows_table(rows, TO_REPLAY)


WORK = [
    work(WHOLE, ids(*ROWS), [0, 1, 2]),
    work(ROWS[0], ids(ROWS[0]), [1]),
    work(ROWS[1], ids(ROWS[1]), [2, 0]),
]


def stored(archive: Archive, *rows: Carried) -> list[Memory]:
    frames = {row["segment_id"]: row["frame_count"] for row in archive.segments().to_pylist()}
    return [
        Memory.stored(torch.from_numpy(tokens.astype(np.float32)), torch.from_numpy(sizes), frames[segment])
        for segment, tokens, sizes in archive.memory_tokens(ids(*rows))
    ]


def output(table: pa.Table, row: int) -> np.ndarray:
    return array_at(table, "query_output", row, np.float32)


def test_an_output_for_each_prompt_asked(replay: ReplayPrompts) -> None:
    table = replay(table_of(*WORK))
    assert table.schema == REPLAYED
    assert carried(table) == [WHOLE, ROWS[0], ROWS[1]]
    assert table["prompts"].to_pylist() == [[0, 1, 2], [1], [2, 0]]
    assert [output(table, index).shape[0] for index in range(3)] == [3, 1, 2]


def test_a_segment_is_replayed_on_its_stored_memory(replay: ReplayPrompts, archive: Archive) -> None:
    table = replay(table_of(*WORK))
    [expected] = replay.encoder.replay(
        stored(archive, ROWS[1]), [[PROMPTS[2].text, PROMPTS[0].text]], SETTINGS
    )
    assert expected is not None
    np.testing.assert_array_equal(output(table, 2), expected.numpy())


def test_a_whole_video_is_its_segments_compressed_together(replay: ReplayPrompts, archive: Archive) -> None:
    table = replay(table_of(*WORK))
    merged = merge_memories(stored(archive, *ROWS), length=4)
    assert len(merged) == 4
    [expected] = replay.encoder.replay([merged], [[prompt.text for prompt in PROMPTS]], SETTINGS)
    assert expected is not None
    np.testing.assert_array_equal(output(table, 0), expected.numpy())


@pytest.mark.parametrize("kind", ["time_positions", "frame_positions"])
def test_a_model_with_positions_places_segments_in_their_video(
    replay: ReplayPrompts, archive: Archive, tmp_path: Path, kind: str
) -> None:
    save_debug_checkpoint(tmp_path)
    assert isinstance(replay.encoder, Encoder)
    give_positions(tmp_path, random_table(3, 5, replay.encoder.qformer.visual_channels), kind=kind)
    placing = ReplayPrompts(
        archive=archive.uri, model=str(tmp_path), settings=SETTINGS, prompts=PROMPTS, device="cpu"
    )
    table, without = placing(table_of(*WORK)), replay(table_of(*WORK))
    memories = stored(archive, *ROWS)
    merged = placing.encoder.merge(memories, SETTINGS)
    assert merged.appended == 13
    texts = [prompt.text for prompt in PROMPTS]
    for index, memory, asked in ((0, merged, texts), (1, memories[0], texts[1:2])):
        [expected] = placing.encoder.replay([memory], [asked], SETTINGS)
        assert expected is not None
        np.testing.assert_array_equal(output(table, index), expected.numpy())
        assert np.abs(output(table, index) - output(without, index)).max() > 1e-3


def test_slots_are_handed_on_with_their_times(replay: ReplayPrompts, archive: Archive) -> None:
    """Whatever the family reads: typed answers compare their times with these."""
    one, whole = replay(table_of(WORK[1], WORK[0]))["slots"].to_pylist()

    def times(slots: list[dict[str, Any]]) -> list[tuple[float, ...]]:
        return [(slot["start_s"], slot["timestamp_s"], slot["end_s"]) for slot in slots]

    names = ("start_s", "timestamp_s", "end_s")
    assert times(one) == times(archive.memory_rows(ids(ROWS[0]), names).to_pylist())
    stored_s = times(archive.memory_rows(ids(*ROWS), names).to_pylist())
    assert len(whole) == SETTINGS.length < len(stored_s)
    assert (whole[0]["start_s"], whole[-1]["end_s"]) == (stored_s[0][0], stored_s[-1][2])
    for begin, at, end in times(whole):
        assert begin <= at <= end
    for before, after in itertools.pairwise(times(whole)):
        assert before[2] == pytest.approx(after[0])


def test_failures_pass_through_untouched(replay: ReplayPrompts) -> None:
    table = replay(table_of(work(failing_row(), [], []), WORK[1], work(BROKEN, [], [])))
    assert table.schema == REPLAYED
    held = carried(table)
    assert (held[0], held[2]) == (failing_row(), BROKEN)
    assert held[1].failure is None


def test_one_row_without_memory_fails_alone(replay: ReplayPrompts) -> None:
    gone = planned(video_at("/videos/gone.mp4"))[0]
    table = replay(table_of(WORK[1], work(gone, ids(gone), [0]), WORK[2]))
    held = carried(table)
    assert [row.failure is None for row in held] == [True, False, True]
    assert held[1].failure is not None
    assert (held[1].failure.stage, held[1].failure.uri) == ("replay", "/videos/gone.mp4")
    assert held[1].failure.segment_id == gone.segment.segment_id  # type: ignore[union-attr]
    assert "no memory" in held[1].failure.message
    assert not table["query_output"][1].is_valid


def test_a_batch_gives_what_each_row_gives_alone(replay: ReplayPrompts) -> None:
    in_step = [work(WHOLE, ids(*ROWS), [1, 2]), work(ROWS[2], ids(ROWS[2]), [0, 1])]
    rows = [*WORK, *in_step]
    table = replay(table_of(*rows))
    for index, row in enumerate(rows):
        alone = output(replay(table_of(row)), 0)
        np.testing.assert_allclose(output(table, index), alone, rtol=0, atol=1e-5)


def test_rows_with_as_many_prompts_go_in_lock_step_and_alone_where_memory_runs_out(
    replay: ReplayPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [WORK[0], work(BROKEN, [], []), WORK[0], WORK[1]]
    assert len(WORK[0]["prompts"]) != len(WORK[1]["prompts"])
    expected = [replay(table_of(row)) for row in rows]
    whole = replay.encoder.replay
    calls = []

    def small(memories: list[Memory], *arguments: Any) -> Sequence[torch.Tensor | None]:
        calls.append(len(memories))
        if len(memories) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return whole(memories, *arguments)

    monkeypatch.setattr(replay.encoder, "replay", small)
    assert replay(table_of(*rows)) == pa.concat_tables(expected)
    assert calls == [2, 1, 1, 1]


def test_batches_one_after_the_other_give_what_fresh_actors_give(archive: Archive) -> None:
    one = actor(archive)
    for rows in (WORK, WORK[1:], WORK):
        assert one(table_of(*rows)) == actor(archive)(table_of(*rows))


def test_what_is_committed_later_is_seen(replay: ReplayPrompts, archive: Archive) -> None:
    later = planned(video_at("/videos/later.mp4"))[0]
    assert carried(replay(table_of(work(later, ids(later), [0]))))[0].failure is not None
    encode = EncodeSegments(
        model="debug", retrieval_model=None, settings=SETTINGS, prompts=PROMPTS, device="cpu"
    )
    generate = GenerateTexts(model="debug", prompts=PROMPTS, max_new_tokens=3, device="cpu")
    table = write_segments(
        generate(encode(decoded_table([decoded(later, random_frames(9, 5))]))),
        archive=archive.uri,
        prompts=PROMPTS,
        recipe=RECIPE,
        memories=archive.schema("memories"),
    )
    archive.commit(Receipt(**value) for value in table["receipt"].to_pylist())
    assert carried(replay(table_of(work(later, ids(later), [0]))))[0].failure is None
