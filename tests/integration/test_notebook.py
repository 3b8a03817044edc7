"""The notebook runs, and shows what its cells do: they are run in one namespace, as Jupyter would, without Jupyter."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from support.inline_evaluation import InlineEvaluation
from support.inline_stages import InlineStages
from support.notebooks import code_cells, printed, run, shown

from malmm.pipeline.evaluation import run as evaluation

NOTEBOOK = Path(__file__).parents[2] / "examples" / "memory.ipynb"


def test_the_notebook_shows_what_its_cells_do(monkeypatch: pytest.MonkeyPatch) -> None:
    InlineStages().install(monkeypatch)
    monkeypatch.setattr(evaluation, "asking", InlineEvaluation())
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    done = copy.deepcopy(kept)
    run(done)
    for before, after in zip(code_cells(kept), code_cells(done), strict=True):
        assert printed(after) == printed(before)
        assert [picture.size for picture in shown(after)] == [picture.size for picture in shown(before)]
    assert sum(len(shown(cell)) for cell in code_cells(kept)) == 1


def test_outputs_name_no_machine() -> None:
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    said = "".join(printed(cell) for cell in code_cells(kept))
    assert "frames" in said
    assert "/" not in said
