"""An archive's recipe: refused where it differs, and replaced when all is there in the new one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents, versions
from support.inline_runs import Clean, Go
from support.inline_stages import InlineStages

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import driver as run
from malmm.pipeline.schema.errors import RecipeMismatch, WorkerError


def test_another_recipe_is_refused_and_nothing_is_touched(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    go(videos["two"])
    before = versions(ArchiveReader.open(place))
    stages.calls.clear()
    with pytest.raises(RecipeMismatch, match=r"--fps 1\.0 stored, 2\.0 asked") as caught:
        go(videos["two"], videos["three"], fps=2.0)
    assert caught.value.differences == [("fps", "1.0", "2.0")]
    assert not stages.calls
    assert versions(ArchiveReader.open(place)) == before


def test_settings_that_change_no_row_are_no_other_recipe(
    go: Go, clean: Clean, place: str, videos: dict[str, Path]
) -> None:
    go(videos["two"])
    report = go(videos["two"], videos["three"], batch_segments=1)
    assert report.exit_code == 0
    assert contents(ArchiveReader.open(place)) == clean(videos["two"], videos["three"])


def test_a_new_recipe_is_made_beside_the_old_one_and_takes_its_place_when_all_is_there(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    sources = (videos["two"], videos["three"], videos["none"])
    go(*sources)
    before = contents(ArchiveReader.open(place))
    with pytest.raises(RecipeMismatch, match="--reindex"):
        go(*sources, bank_length=1)
    report = go(*sources, bank_length=1, reindex=True, limit=1)
    assert (report.videos_indexed, report.switched, report.videos_not_reindexed) == (1, False, 1)
    assert contents(ArchiveReader.open(place)) == before
    report = go(*sources, bank_length=1, reindex=True)
    assert (report.videos_indexed, report.switched, report.videos_not_reindexed) == (1, True, 0)
    archive = ArchiveReader.open(place)
    assert archive.recipe.bank_length == 1
    assert archive.root == place
    after = contents(archive)
    assert after == clean(*sources, bank_length=1)
    assert not (Path(place) / "memories.lance").exists()
    stages.calls.clear()
    report = go(*sources, bank_length=1)
    assert (report.videos_unchanged, report.switched) == (2, False)
    assert not stages.calls
    with pytest.raises(RecipeMismatch):
        go(*sources)
    # And once more, to a third generation.
    assert go(*sources, reindex=True).switched
    assert contents(ArchiveReader.open(place)) == before
    assert len([path for path in Path(place).iterdir() if path.name.startswith("recipe-")]) == 1


def test_a_video_that_is_not_among_the_sources_keeps_the_old_recipe_in_force(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    passing = tmp_path / "passing.mp4"
    shutil.copy(videos["two"], passing)
    go(passing, videos["three"])
    passing.unlink()
    report = go(videos["three"], bank_length=1, reindex=True)
    assert (report.videos_indexed, report.switched, report.videos_not_reindexed) == (1, False, 1)
    assert ArchiveReader.open(place).count("videos") == 2
    report = go(videos["three"], bank_length=1, reindex=True, prune=True)
    assert (report.videos_indexed, report.switched) == (0, True)
    assert ArchiveReader.open(place).count("videos") == 1


def test_compiling_is_no_part_of_the_recipe_and_is_tried_before_a_file_is_opened(
    go: Go, place: str, videos: dict[str, Path], stages: InlineStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(resources: Any, labels: Any) -> None:
        raise WorkerError("no compiler")

    monkeypatch.setattr(run, "check_compilers", refuse)
    go(videos["two"])
    before = contents(ArchiveReader.open(place))
    assert go(videos["two"], compile=True).videos_unchanged == 1
    stages.calls.clear()
    with pytest.raises(WorkerError, match="no compiler"):
        go(videos["two"], videos["three"], compile=True)
    assert not stages.calls
    assert contents(ArchiveReader.open(place)) == before
