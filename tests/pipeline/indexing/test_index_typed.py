"""Typed answers that are made while the videos are indexed, and what a model without braces is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.inline_runs import Go

from malmm.pipeline.archive.answer_columns import answer_columns
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.prompts import Prompt

RECORDS = {
    "type": "array",
    "items": {"type": "object", "properties": {"kind": {"enum": ["in", "out"]}}, "required": ["kind"]},
    "maxItems": 2,
}


def test_answers_come_with_their_segments(go: Go, place: str, videos: dict[str, Path]) -> None:
    prompts = (
        Prompt.typed("count", "How many?", {"type": "integer", "minimum": 0, "maximum": 9}),
        Prompt.typed("events", "When?", RECORDS, spans=True),
    )
    assert go(videos["two"], prompts=prompts).exit_code == 0
    archive = ArchiveReader.open(place)
    rows = archive.tables.rows("annotations").to_pylist()
    columns = {
        (each.prompt, each.path): each.column
        for each in answer_columns(archive.schema("annotations")).values()
    }
    counts = [row for row in rows if row["prompt_name"] == "count"]
    assert len(counts) == archive.count("segments") + 1
    assert all(row[columns["count", ""]] == int(row["text"]) for row in counts)
    lists = [row for row in rows if row["prompt_name"] == "events" and row["task"] == "record"]
    assert {row["mode"] for row in lists} == {"online", "replay"}
    moments = [row for row in rows if row["task"] == "moment"]
    assert len(moments) == sum(len(json.loads(row["text"])) for row in lists)
    spans = {row["annotation_id"]: (row["start_s"], row["end_s"]) for row in lists}
    for row in moments:
        begin, end = spans[row["annotation_id"].rpartition("-")[0]]
        assert begin <= row["start_s"] <= row["end_s"] <= end
    assert go(videos["two"], prompts=prompts).segments_indexed == 0


def test_a_vocabulary_that_cannot_write_the_answer_is_refused_before_anything_runs(
    go: Go, place: str, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from malmm.model.typed.vocabulary import Vocabulary

    real = Vocabulary.of

    def without_braces(tokenizer: object) -> Vocabulary:
        found = real(tokenizer)
        pieces = tuple(b"" if b"{" in piece else piece for piece in found.pieces)
        return Vocabulary(pieces, found.special, found.end)

    monkeypatch.setattr(Vocabulary, "of", without_braces)
    prompt = Prompt.typed("x", "What?", {"type": "object", "properties": {"a": {"type": "null"}}})
    with pytest.raises(ConfigError, match=r"prompt 'x' has a schema: the model's vocabulary cannot write \{"):
        go(videos["two"], prompts=(prompt,))
    assert not Path(place).exists()
