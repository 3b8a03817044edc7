"""An archive of a family that reads slots, from videos to answers, with driver and operators in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.drawn_archive import make_archive
from support.inline_stages import InlineStages
from support.tiny_families import save_tiny

from malmm.jobs.cli import main
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt
from malmm.pipeline.searching.asker import ask
from malmm.pipeline.searching.searcher import search

OPTIONS = {"segment_s": 5.0, "fps": 1.0, "bank_length": 3, "max_new_tokens": 6, "retrieval_model": "none"}


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_from_videos_to_answers(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "model")
    save_tiny(Path(model), family)
    drawn = make_archive(tmp_path, videos=1, seconds=12.0, model=model, **OPTIONS)
    archive = ArchiveReader.open(drawn.place)
    assert archive.recipe.token_layers == (3 if family == "qwen3_vl" else 1)
    [caption, *_] = [row["text"] for row in archive.annotations().to_pylist() if row["segment_id"]]
    assert len(caption) == 6

    InlineStages().install(monkeypatch)
    report = annotate(AnnotateConfig(drawn.place, (Prompt("question", "What is it?"),)))
    assert (report.missing, report.texts, report.failures) == (4, 4, [])
    config = IndexConfig((str(tmp_path / "videos"),), drawn.place, model=model, **OPTIONS)  # type: ignore[arg-type]
    again = index(config)
    assert (again.exit_code, again.videos_unchanged) == (0, 1)

    assert search(drawn.place, caption)
    [video] = drawn.scenes
    reply = ask(drawn.place, "What is it?", video_ids=[video], whole=True)
    texts = {row["text"][:6] for row in archive.annotations().to_pylist() if row["prompt_name"] == "question"}
    assert reply.answers[0].text[:6] in texts

    capsys.readouterr()
    assert main(["show", "--archive", drawn.place, "--json"]) == 0
    written = tmp_path / "texts.jsonl"
    assert main(["export", "--archive", drawn.place, "--format", "jsonl", "--output", str(written)]) == 0
    assert caption in {json.loads(line)["text"] for line in written.read_text().splitlines()}
