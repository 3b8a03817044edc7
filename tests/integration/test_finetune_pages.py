"""The commands of docs/finetune.md and docs/improve.md, one after the other, as they are written there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from support.inline_evaluation import InlineEvaluation
from support.task_pages import walk

from malmm.pipeline.evaluation import run


def test_a_model_is_improved_as_the_pages_say(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "asking", InlineEvaluation())
    walked = walk("improve.md", tmp_path, tmp_path_factory, monkeypatch)
    assert [line.split()[1] for line, _ in walked.done] == [
        *("index", "show", "export", "finetune", "evaluate", "evaluate", "index", "show")
    ]
    last = walked.done[-1][1].stdout
    folder = walked.folder
    with (folder / "corrected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train", "train", "test"]
    assert all(row["answer"][2:].isupper() for row in rows)
    card = (folder / "better" / "README.md").read_text()
    assert "2 examples of 2 videos" in card
    assert "1 for an evaluation" in card
    reports = [
        json.loads((folder / name / "report.json").read_text()) for name in ("scores-before", "scores-after")
    ]
    assert len({report["recipe"]["model_fingerprint"] for report in reports}) == 2
    assert "caption" in last
