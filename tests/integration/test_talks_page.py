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
    done = walk("talks.md", tmp_path, tmp_path_factory, monkeypatch).done
    monkeypatch.chdir(tmp_path)
    said = [ended.stdout for _, ended in done]
    assert [line.split()[1] for line, _ in done] == [
        *("demo-videos", "index", "transcribe", "search", "show", "export"),
        *("import-annotations", "search", "export"),
        *(
            "annotate",
            "search",
            "export",
            '\'s/"predictions"/"annotations"/\'',
            "import-annotations",
            "export",
        ),
        "forget",
    ]
    assert "1 transcripts: 2 new texts" in said[2]
    assert "The red square is where the ferry lands." in said[3]
    assert "0:05 to 0:09" in said[3]
    assert "transcript in en: 2 texts" in said[4]
    assert "Welcome to the harbour tour." in Path("subtitles/drawn-0-0.en.srt").read_text()
    assert "1: 1 new texts" in said[6]
    assert "HARBOUR TOUR 2026" in said[7]
    assert "HARBOUR TOUR 2026" in Path("back.csv").read_text()
    shapes = ("square", "circle", "triangle", "star", "cross")
    with Path("train.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert "0 there before" in said[9]
    assert f"{len(rows)} made" in said[9]
    assert "drawn-0-0.mp4" in said[10]
    assert f"{len(rows)} labels were about texts" in said[13]
    for row in rows:
        answer = json.loads(row["answer"])
        assert answer["shape"] in shapes
        assert answer["moves"] in (True, False)
        assert row["prompt"] == "What is on the slide?"
    assert "Proved" in said[15]
