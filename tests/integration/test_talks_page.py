"""The commands of docs/talks.md, one after the other, as they are written there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.task_pages import walk


def test_each_step_does_what_the_page_says(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = walk("talks.md", tmp_path, tmp_path_factory, monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert [line.split()[1] for line, _ in walked.done] == [
        *("demo-videos", "index", "transcribe", "search", "search", "ask", "show", "export"),
        *("import-annotations", "search", "export"),
        *("import-annotations", "search"),
        *("annotate", "search", "run", "run"),
        *("export", '\'s/"predictions"/"annotations"/\'', "import-annotations", "export"),
        "forget",
    ]
    said = walked.said
    assert "1 transcripts: 2 new texts" in said("malmm transcribe")
    by_words = said('malmm search "where does the ferry land"')
    assert "The red square is where the ferry lands." in by_words
    assert "0:05 to 0:09" in by_words
    assert "drawn-0-0.mp4" in said('malmm search "a red square"')
    assert "drawn-0-0.mp4" in said("malmm ask")
    assert "transcript in en: 2 texts" in said("malmm show")
    assert "Welcome to the harbour tour." in Path("subtitles/drawn-0-0.en.srt").read_text()
    assert "1: 1 new texts" in said("malmm import-annotations slides.csv")
    assert "HARBOUR TOUR 2026" in said('malmm search "tour 2026"')
    assert "HARBOUR TOUR 2026" in Path("back.csv").read_text()
    assert "1: 1 new texts" in said("malmm import-annotations clips.jsonl")
    assert "A lighthouse stands on a pier." in said('malmm search "lighthouse"')
    shapes = ("square", "circle", "triangle", "star", "cross")
    with Path("train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert f"{len(rows)} made, 0 there before" in said("malmm annotate")
    assert "drawn-0-0.mp4" in said('malmm search "red square"')
    nightly = [ended.stdout for line, ended in walked.done if line == "malmm run nightly.yaml"]
    assert f"{len(rows)} made, 0 there before" in nightly[0]
    assert f"0 made, {len(rows)} there before" in nightly[1]
    assert f"{len(rows)} labels were about texts" in said("malmm import-annotations labelled.json")
    for row in rows:
        answer = json.loads(row["answer"])
        assert answer["shape"] in shapes
        assert answer["moves"] in (True, False)
        assert answer["colour"] in ("red", "green", "blue", "yellow", "white")
        assert row["prompt"] == "What is on the slide?"
    assert "Proved" in said("malmm forget")
