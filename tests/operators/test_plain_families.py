"""The operators with families that read slots: memory is stored, and answers as it did online."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.flow_rows import PROMPTS, decoded, decoded_table, planned, video_at
from support.tiny_families import FAMILIES, save_tiny, tiny_frames

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import image_size
from malmm.model.memory.settings import MemorySettings
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.index import make_recipe
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.rows import TO_REPLAY, Carried, array_at, carried, rows_table
from malmm.pipeline.schema.stored_tokens import tokens_at

VIDEO = video_at()
ROWS = planned(VIDEO)
WHOLE = Carried(VIDEO, None, None)
NEW_TOKENS = 6


class Indexed:
    """Three segments of a video, indexed with a family's tiny checkpoint."""

    def __init__(self, folder: Path, family: str, length: int, tokens: str = "float16") -> None:
        self.model = str(folder / "model")
        save_tiny(Path(self.model), family)
        self.models = open_models(self.model, NO_RETRIEVAL)
        config = IndexConfig(
            ("x",), str(folder / "archive"), model=self.model, bank_length=length, tokens=tokens
        )
        recipe = make_recipe(config, self.models)
        self.settings = MemorySettings(recipe.bank_length, recipe.merge_policy)
        self.archive = Archive.create_or_open(config.archive, recipe, 32)
        encode = EncodeSegments(
            model=self.model,
            retrieval_model=NO_RETRIEVAL,
            settings=self.settings,
            tokens=tokens,
            prompts=PROMPTS,
            device="cpu",
        )
        self.generate = GenerateTexts(
            model=self.model, prompts=PROMPTS, max_new_tokens=NEW_TOKENS, device="cpu"
        )
        self.frames = [tiny_frames(family, count, seed) for seed, count in enumerate((7, 3, 4))]
        self.encoded = encode(decoded_table([decoded(*pair) for pair in zip(ROWS, self.frames, strict=True)]))
        assert [row.failure for row in carried(self.encoded)] == [None] * 3
        self.online = self.generate(self.encoded)
        receipts = write_segments(
            self.online,
            archive=self.archive.uri,
            prompts=PROMPTS,
            recipe=recipe,
            memories=self.archive.schema("memories"),
        )
        assert [row.failure for row in carried(receipts)] == [None] * 3
        self.archive.commit(Receipt(**value) for value in receipts["receipt"].to_pylist())

    def replayed(self, row: Carried, rows: list[Carried]):
        """Texts, scores and label scores of all prompts on stored memory."""
        replay = ReplayPrompts(
            archive=self.archive.uri, model=self.model, settings=self.settings, prompts=PROMPTS, device="cpu"
        )
        work = row.columns() | {
            "segment_ids": [part.segment.segment_id for part in rows if part.segment is not None],
            "prompts": [2, 0, 1],
        }
        return self.generate(replay(rows_table([work], TO_REPLAY)))


@pytest.fixture(scope="module", params=[*FAMILIES, "smolvlm int8", "qwen3_vl int8"])
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    family, _, tokens = request.param.partition(" ")
    return Indexed(tmp_path_factory.mktemp(family), family, length=3, tokens=tokens or "float16")


def test_memory_is_stored_in_the_shape_of_the_family(indexed: Indexed) -> None:
    found = list(indexed.archive.memory_tokens([row.segment.segment_id for row in ROWS if row.segment]))
    assert len(found) == 3
    for index, (_, tokens, sizes) in enumerate(found):
        online = tokens_at(indexed.encoded, index)
        assert np.array_equal(tokens, online)
        assert len(tokens) <= 3
        assert sizes.sum(0).tolist() == [len(indexed.frames[index])] * sizes.shape[1]
    layers = indexed.archive.recipe.token_layers
    assert found[0][1].shape[2:-1] == ((layers,) if layers > 1 else ())


def test_a_replay_answers_as_the_online_pass_did_to_the_token(indexed: Indexed) -> None:
    order = [2, 0, 1]
    for index, row in enumerate(ROWS):
        table = indexed.replayed(row, [row])
        for column in ("texts", "scores", "label_scores"):
            online = indexed.online[column][index].as_py()
            assert table[column][0].as_py() == [online[place] for place in order]
    texts = {text for texts in indexed.online["texts"].to_pylist() for text in texts[:2]}
    assert len(texts) > 1


def test_texts_are_those_of_the_language_part_on_rounded_slots(indexed: Indexed) -> None:
    for index in range(3):
        spans = indexed.encoded["slots"][index].as_py()
        tokens = torch.from_numpy(tokens_at(indexed.encoded, index).copy())
        slots = Slots(tokens, tuple(span["timestamp_s"] for span in spans), spans[-1]["end_s"])
        asked = [Asked(prompt.text, slots=slots) for prompt in PROMPTS[:2]]
        expected = [
            text
            for question in asked
            for text in indexed.generate.language.generate_texts([question], Decoding(NEW_TOKENS))
        ]
        assert indexed.online["texts"][index].as_py()[:2] == expected


def test_a_whole_video_is_answered_from_one_memory(indexed: Indexed) -> None:
    table = indexed.replayed(WHOLE, ROWS)
    [row] = carried(table)
    assert row.failure is None
    assert len(table["texts"][0].as_py()) == 3
    assert "tokens" not in table.column_names


def test_a_whole_video_without_merges_has_the_times_of_its_frames(tmp_path: Path) -> None:
    indexed = Indexed(tmp_path, "smolvlm", length=20)
    replay = ReplayPrompts(
        archive=indexed.archive.uri,
        model=indexed.model,
        settings=indexed.settings,
        prompts=PROMPTS,
        device="cpu",
    )
    work = WHOLE.columns() | {
        "segment_ids": [row.segment.segment_id for row in ROWS if row.segment],
        "prompts": [0],
    }
    table = replay(rows_table([work], TO_REPLAY))
    spans = table["slots"][0].as_py()
    expected = [slot["timestamp_s"] for slots in indexed.encoded["slots"].to_pylist() for slot in slots]
    assert [span["timestamp_s"] for span in spans] == pytest.approx(expected)
    stored = [slot for slots in indexed.encoded["slots"].to_pylist() for slot in slots]
    assert [(span["start_s"], span["end_s"]) for span in spans] == [
        (slot["start_s"], slot["end_s"]) for slot in stored
    ]
    assert array_at(table, "tokens", 0, np.float16).shape[0] == 14


def test_frames_of_another_size_fail_in_one_sentence(indexed: Indexed) -> None:
    encode = EncodeSegments(
        model=indexed.model,
        retrieval_model=NO_RETRIEVAL,
        settings=indexed.settings,
        prompts=PROMPTS,
        device="cpu",
    )
    side = image_size(indexed.models.checkpoint) + 1
    frames = np.zeros((2, side, side, 3), np.uint8)
    [row] = carried(encode(decoded_table([decoded(ROWS[0], frames)])))
    assert row.failure is not None
    assert row.failure.stage == "encode"
    assert "frames of shape" in row.failure.message
