from __future__ import annotations

import json

import pytest

from malmm.jobs.cli import main
from malmm.jobs.commands.models import lines
from malmm.model.published.catalogue import catalogue
from malmm.pipeline.cluster.equipment import Equipment
from malmm.pipeline.indexing.model_table import table_for

GIB = 2**30


def test_it_lists_all_models_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    assert all(model.name in said for model in catalogue())
    assert main(["models", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in table["models"]] == [model.name for model in catalogue()]
    assert [row["chosen"] for row in table["models"]].count(True) == 1


@pytest.mark.parametrize(
    ("equipment", "star", "where"),
    [
        (Equipment(16 * GIB), "SmolVLM2-500M", "16 GiB of memory and no GPU"),
        (Equipment(16 * GIB, 80 * GIB), "Qwen3-VL-8B", "80 GiB of GPU memory"),
    ],
)
def test_the_table_marks_what_fits_and_what_is_taken(equipment: Equipment, star: str, where: str) -> None:
    table = table_for(equipment)
    said = lines(table)
    assert where in said[0]
    [marked] = [line for line in said[3:-2] if line.startswith("*")]
    assert star in marked
    assert " yes " in marked
    assert {row.fits for row in table.models} == ({True, False} if equipment.gpu_bytes is None else {True})
    by_short = {row.short: row for row in table.models}
    assert (by_short["qwen3-vl-8b"].tokens_a_frame, by_short["smolvlm2-500m"].tokens_a_frame) == (32, 64)
    assert by_short["vicuna-7b"].licence == "other"
