"""What is left to do, from what the last runs wrote of themselves."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE

from malmm.pipeline.archive.run_history import RunRecord, write_run
from malmm.pipeline.archive.status import status
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.progress import Progress


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)


@pytest.mark.parametrize("ended_as", ["interrupted", "lost", "failed"])
@pytest.mark.parametrize(
    ("stage", "done", "counts", "pending"),
    [
        ("indexing", 71, {"videos_listed": 500, "videos_left": 0}, 429),
        ("indexing", 71, {"videos_listed": 500, "videos_left": 10}, 439),
        ("probing", 71, {"videos_listed": 500}, 500),
        ("indexing", 71, {}, 429),
    ],
)
def test_what_a_run_had_planned_and_did_not_do_is_pending(
    archive: Archive, ended_as: str, stage: str, done: int, counts: dict[str, float], pending: int
) -> None:
    now = datetime.now(UTC)
    told = vars(Progress(stage, videos_done=done, videos_total=500))
    run = RunRecord("j", ("index",), started=now, ended=now, status=ended_as, progress=told, counts=counts)
    write_run(archive.root, run)
    assert status(archive).pending == pending
    whole = RunRecord("j", ("index",), started=now + timedelta(seconds=1), ended=now, status="done")
    write_run(archive.root, replace(whole, counts={"videos_listed": 500, "videos_left": 3}))
    assert status(archive).pending == 3


def test_of_an_archive_without_runs_nothing_is_known_to_be_pending(archive: Archive) -> None:
    assert status(archive).pending == 0
