from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.flow_rows import BROKEN, PROMPTS, decoded_segments, decoded_table, failing_row, planned, video_at

from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.rows import (
    ANSWERED,
    ENCODED,
    REPLAYED,
    Carried,
    array_at,
    carried,
    rows_table,
    with_arrays,
)


def actor(**changes: Any) -> GenerateTexts:
    options: dict[str, Any] = {"model": "debug", "prompts": PROMPTS, "max_new_tokens": 6, "device": "cpu"}
    return GenerateTexts(**(options | changes))


@pytest.fixture(scope="module")
def generate() -> GenerateTexts:
    return actor()


@pytest.fixture(scope="module")
def encoded() -> pa.Table:
    encode = EncodeSegments(
        model="debug",
        retrieval_model=None,
        settings=MemorySettings(4, "token"),
        prompts=PROMPTS,
        device="cpu",
    )
    return encode(decoded_table(decoded_segments([6, 2, 4], seed=1)))


def replayed(*rows: tuple[Carried, list[int]], seed: int = 0) -> pa.Table:
    generator = np.random.default_rng(seed)
    return rows_table(
        [
            row.columns()
            if row.failure
            else with_arrays(
                row.columns() | {"prompts": prompts},
                query_output=generator.standard_normal((len(prompts), 8, 48)).astype(np.float32),
            )
            for row, prompts in rows
        ],
        REPLAYED,
    )


def test_a_text_for_each_prompt(generate: GenerateTexts, encoded: pa.Table) -> None:
    table = generate(encoded)
    assert table.schema == ANSWERED
    assert carried(table) == carried(encoded)
    for texts, scores in zip(table["texts"].to_pylist(), table["scores"].to_pylist(), strict=True):
        assert len(texts) == len(scores) == len(PROMPTS)
        assert texts[0]
        assert len(texts[0]) <= 6  # a token is a letter
        assert scores[:2] == [None, None]


def test_a_classification_gives_a_label_and_its_probability(
    generate: GenerateTexts, encoded: pa.Table
) -> None:
    table = generate(encoded)
    for texts, scores in zip(table["texts"].to_pylist(), table["scores"].to_pylist(), strict=True):
        assert texts[2] in ("indoors", "outdoors")
        assert 0.5 <= scores[2] <= 1


def test_what_the_rows_brought_along_is_kept(generate: GenerateTexts, encoded: pa.Table) -> None:
    table = generate(encoded)
    for name in set(ANSWERED.names) & set(ENCODED.names) - {"failure"}:
        assert table[name] == encoded[name]


def test_replayed_rows_are_answered_with_their_own_prompts(generate: GenerateTexts) -> None:
    rows = [(planned(video_at())[0], [1]), (Carried(video_at(), None, None), [0, 2]), (failing_row(), [])]
    table = generate(replayed(*rows))
    assert table.column_names == ["video", "segment", "failure", "prompts", "texts", "scores", "label_scores"]
    for name in table.column_names:
        assert table.schema.field(name) == ANSWERED.field(name)
    assert table["prompts"].to_pylist() == [[1], [0, 2], None]
    assert [None if texts is None else len(texts) for texts in table["texts"].to_pylist()] == [1, 2, None]
    assert table["texts"][1].as_py()[1] in ("indoors", "outdoors")
    assert table["scores"][1].as_py()[0] is None
    assert carried(table)[2] == failing_row()


def test_failures_pass_through_untouched(generate: GenerateTexts, encoded: pa.Table) -> None:
    rows = rows_table([failing_row().columns(), BROKEN.columns()], ENCODED)
    table = generate(pa.concat_tables([rows.slice(0, 1), encoded.slice(0, 1), rows.slice(1, 1)]))
    assert table.schema == ANSWERED
    held = carried(table)
    assert (held[0], held[2]) == (failing_row(), BROKEN)
    assert [texts is None for texts in table["texts"].to_pylist()] == [True, False, True]
    assert carried(generate(rows)) == [failing_row(), BROKEN]


@pytest.mark.parametrize("part", ["candidates", "classify"])
def test_one_bad_row_fails_alone(
    generate: GenerateTexts, encoded: pa.Table, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    expected = generate(encoded)["texts"].to_pylist()
    bad = encoded.to_pylist()[1]["query_output"]
    whole = getattr(generate.language, part)

    def fail(query_output: Any, *arguments: Any, **named: Any) -> Any:
        outputs = np.frombuffer(bad, np.float32).reshape(len(PROMPTS), *query_output.shape[1:])
        if any(np.array_equal(row, one) for row in query_output.numpy() for one in outputs):
            raise RuntimeError("out of\nmemory")
        return whole(query_output, *arguments, **named)

    monkeypatch.setattr(generate.language, part, fail)
    table = generate(encoded)
    assert table.schema == ANSWERED
    failures = [row.failure for row in carried(table)]
    assert [failure is None for failure in failures] == [True, False, True]
    assert failures[1] is not None
    assert (failures[1].stage, failures[1].kind, failures[1].message) == (
        "generate",
        "RuntimeError",
        "out of memory",
    )
    texts = table["texts"].to_pylist()
    assert texts[1] is None
    assert (texts[0], texts[2]) == (expected[0], expected[2])


def test_a_batch_gives_what_each_row_gives_alone(generate: GenerateTexts, encoded: pa.Table) -> None:
    together = generate(encoded)
    for index in range(encoded.num_rows):
        alone = generate(encoded.slice(index, 1))
        assert together["texts"][index] == alone["texts"][0]
        np.testing.assert_allclose(
            np.array(together["scores"][index].as_py(), np.float64),
            np.array(alone["scores"][0].as_py(), np.float64),
            rtol=1e-4,
        )


def test_batches_one_after_the_other_give_what_fresh_actors_give(encoded: pa.Table) -> None:
    one = actor()
    for rows in (encoded, encoded.slice(1, 2), encoded):
        assert one(rows) == actor()(rows)


def test_texts_are_drawn_as_the_recipe_says(generate: GenerateTexts, encoded: pa.Table) -> None:
    settings = TextSettings(3, 1.5, 0.0, 2, 1)
    drawn = actor(decoding=settings.to_text())
    assert drawn.decoding == Decoding(6, 3, 1, 1.5, 0.0, min_new_tokens=2)
    assert generate.decoding == Decoding(6)
    texts = drawn(encoded)["texts"].to_pylist()
    assert texts != generate(encoded)["texts"].to_pylist()
    questions = [Asked(PROMPTS[0].text, query_output=output) for output in _outputs(encoded, prompt=0)]
    expected = drawn.language.generate_texts(questions, drawn.decoding)
    assert [of_row[0] for of_row in texts] == expected
    # A question may be answered in fewer tokens than the archive's texts have at least.
    assert actor(max_new_tokens=1, decoding=settings.to_text()).decoding.min_new_tokens == 1


def test_the_words_of_beams_come_at_the_end() -> None:
    heard: list[str] = []
    one = replayed((planned(video_at("/videos/a.mp4"))[0], [0]))
    for beams in (1, 3):
        heard.clear()
        single = actor(decoding=TextSettings(beams=beams).to_text()).for_prompts(PROMPTS, heard.append)
        [[text]] = single(one)["texts"].to_pylist()
        assert "".join(heard).strip() == text
        assert beams == 1 or heard == [text]


def _outputs(encoded: pa.Table, *, prompt: int) -> list[torch.Tensor]:
    """The query output of a prompt for each row."""
    rows = range(encoded.num_rows)
    return [
        torch.from_numpy(array_at(encoded, "query_output", row, np.float32)[prompt].copy()) for row in rows
    ]
