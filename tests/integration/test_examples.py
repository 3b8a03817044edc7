"""The example of a pipeline is as short as docs/ say. It is run in test_index_end_to_end."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_of_a_pipeline_fits_a_screen() -> None:
    lines = (EXAMPLES / "own_stage.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    assert [line for line in lines if "malmm." in line and "import" in line] == [
        "from malmm.pipeline import ArchiveReader, ArchiveSink, IndexConfig"
    ]
