"""The examples do what their pages say. The one of a pipeline is run on Ray in test_index_end_to_end."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.task_pages import walk

from malmm.jobs.files.loading import load

EXAMPLES = Path(__file__).parents[2] / "examples"
#: The page of each job file.
PAGES = {
    "talks.yaml": "archive-of-talks.md",
    "cameras.yaml": "camera-fleet.md",
    "training_data.yaml": "training-data.md",
    "customers.yaml": "customers.md",
}


def test_the_example_of_a_pipeline_fits_a_screen() -> None:
    lines = (EXAMPLES / "own_stage.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    assert [line for line in lines if "malmm." in line and "import" in line] == [
        "from malmm.pipeline import ArchiveReader, ArchiveSink, IndexConfig"
    ]


def test_each_job_file_has_a_page() -> None:
    files = {path.name for path in EXAMPLES.glob("*.yaml")}
    assert files - {"serve.yaml"} == set(PAGES)


@pytest.mark.parametrize("file", PAGES)
def test_a_job_file_is_right_as_it_lies_there(file: str) -> None:
    """With its own addresses and models, which the page replaces by stand-ins."""
    job = load(str(EXAMPLES / file), environment={"DAY": "2026-11-29", "CUSTOMER": "acme"})
    assert job.archive.startswith("s3://")
    assert job.steps[0].kind == "index"
    assert "/" in job.steps[0].config.model


@pytest.mark.parametrize("file", PAGES)
def test_a_page_does_what_it_says(
    file: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    walked = walk(PAGES[file], tmp_path, tmp_path_factory, monkeypatch)
    assert any(f"malmm run examples/{file}" in line for line, _ in walked.done)
