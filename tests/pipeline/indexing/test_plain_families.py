"""An archive of a family that reads slots, from videos to answers, with driver and operators in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from support.drawn_archive import make_archive
from support.inline_stages import InlineStages
from support.tiny_families import FAMILIES, save_tiny

from malmm.jobs.cli import main
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Prompt
from malmm.pipeline.searching.asker import Asker
from malmm.pipeline.searching.searcher import Searcher, search
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

BASE = "http://127.0.0.1:8000"
OPTIONS: dict[str, Any] = {
    "segment_s": 5.0,
    "fps": 1.0,
    "bank_length": 3,
    "max_new_tokens": 6,
    "retrieval_model": "none",
}
#: Each family once, each kind of stored memory with one of them.
KINDS: dict[str, dict[str, Any]] = {
    "llava_onevision": {"tokens": "int8"},
    "qwen3_vl": {"tokens": "int8", "merge_policy": "episode"},
    "qwen3_5": {"merge_policy": "episode"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_from_videos_to_answers(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, kind = str(tmp_path / "model"), OPTIONS | KINDS.get(family, {})
    save_tiny(Path(model), family)
    drawn = make_archive(tmp_path, videos=1, seconds=12.0, model=model, **kind)
    archive = ArchiveReader.open(drawn.place)
    assert archive.recipe.token_layers == (3 if family == "qwen3_vl" else 1)
    assert (archive.recipe.tokens, archive.recipe.merge_policy) == (
        kind.get("tokens", "float16"),
        kind.get("merge_policy", "token"),
    )
    segments = archive.segments()["segment_id"].to_pylist()
    slots = archive.memory_rows(segments, ("frame_count", "spans")).to_pylist()
    frames = sum(archive.segments()["frame_count"].to_pylist())
    assert sum(slot["frame_count"] for slot in slots) == frames
    if archive.recipe.merge_policy == "episode":
        assert sum(span["frame_count"] for slot in slots for span in slot["spans"]) == frames
    else:
        assert [slot["spans"] for slot in slots] == [None] * len(slots)
    [caption, *_] = [row["text"] for row in archive.annotations().to_pylist() if row["segment_id"]]
    assert len(caption) == 6

    InlineStages().install(monkeypatch)
    prompts = (Prompt("question", "What is it?"),)
    report = annotate(AnnotateConfig(drawn.place, prompts, max_new_tokens=OPTIONS["max_new_tokens"]))
    assert (report.missing, report.texts, report.failures) == (4, 4, [])
    config = IndexConfig((str(tmp_path / "videos"),), drawn.place, model=model, **kind)
    again = index(config)
    assert (again.exit_code, again.videos_unchanged) == (0, 1)

    assert search(drawn.place, caption)
    [video] = drawn.scenes
    asker = Asker(Searcher(drawn.place), max_new_tokens=OPTIONS["max_new_tokens"], device="cpu")
    [answer] = asker.ask("What is it?", video_ids=[video], whole=True).answers
    texts = {row["text"] for row in archive.annotations().to_pylist() if row["prompt_name"] == "question"}
    assert answer.text in texts

    with TestClient(make_app(ServeConfig(drawn.place, max_new_tokens=6)), base_url=BASE) as page:
        told = page.post("/api/ask", json={"question": "What is it?", "video_ids": [video]})
        events = [json.loads(line) for line in told.text.splitlines()]
        assert [event["text"] for event in events if event["event"] == "answered"] == [answer.text]
        shown = page.get(f"/api/videos/{video}/memories").json()
        assert [slot["frame_count"] for slot in shown] == [slot["frame_count"] for slot in slots]
        assert page.get("/api/search", params={"text": caption}).json()["moments"]

    capsys.readouterr()
    assert main(["show", "--archive", drawn.place, "--json"]) == 0
    written = tmp_path / "texts.jsonl"
    assert main(["export", "--archive", drawn.place, "--format", "jsonl", "--output", str(written)]) == 0
    assert caption in {json.loads(line)["text"] for line in written.read_text().splitlines()}
