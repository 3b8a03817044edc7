"""An archive of an imported checkpoint, its texts drawn as the authors draw them, from videos to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.drawn_archive import make_archive
from support.inline_stages import InlineStages
from support.lavis_files import TRAINED, lavis_model, save_lavis

from malmm.model.checkpoints.debug import save_debug_checkpoint
from malmm.model.decoding import Decoding
from malmm.operators.generate import GenerateTexts
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.checkpoints.importing import import_checkpoint
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.errors import RecipeMismatch
from malmm.pipeline.searching.asker import ask

OPTIONS: dict[str, Any] = {
    "segment_s": 5.0,
    "bank_length": 3,
    "max_new_tokens": 6,
    "texts": TextSettings(3, 1.5, 0.0, 2, 1),
}


def test_from_a_lavis_file_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, model = tmp_path / "base", str(tmp_path / "model")
    save_debug_checkpoint(base)
    tensors = load_file(base / "model.safetensors")
    trained = {key: value + 0.1 for key, value in tensors.items() if key.startswith(TRAINED)}
    # Fewer rows than a segment has frames: the table is spread.
    trained["frame_positions.weight"] = torch.rand(4, 48)
    file = save_lavis(tmp_path / "best.pth", lavis_model(trained))
    import_checkpoint(str(file), base=str(base), output=model)

    drawn_with: list[Decoding] = []
    made = GenerateTexts.__call__

    def watched(self: GenerateTexts, rows: Any) -> Any:
        drawn_with.append(self.decoding)
        return made(self, rows)

    monkeypatch.setattr(GenerateTexts, "__call__", watched)
    drawn = make_archive(tmp_path, videos=1, seconds=12.0, model=model, **OPTIONS)
    assert TextSettings.from_text(ArchiveReader.open(drawn.place).recipe.decoding) == OPTIONS["texts"]

    InlineStages().install(monkeypatch)
    report = annotate(AnnotateConfig(drawn.place, (Prompt("question", "What is it?"),), max_new_tokens=6))
    assert (report.missing, report.texts, report.failures) == (4, 4, [])
    [video] = drawn.scenes
    reply = ask(drawn.place, "What is it?", video_ids=[video], whole=True)
    [whole] = [
        row["text"]
        for row in ArchiveReader.open(drawn.place).annotations().to_pylist()
        if row["prompt_name"] == "question" and row["segment_id"] is None
    ]
    assert whole
    assert {(each.num_beams, each.repetition_penalty, each.begin_token) for each in drawn_with} == {
        (3, 1.5, 1)
    }
    assert reply.answers

    greedy = OPTIONS | {"texts": TextSettings()}
    with pytest.raises(RecipeMismatch) as refused:
        index(IndexConfig((str(tmp_path / "videos"),), drawn.place, model=model, **greedy))
    assert [name for name, _, _ in refused.value.differences] == ["decoding"]
