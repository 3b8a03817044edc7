"""Runs that do a part, forget what is gone, or only say what they would do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents, versions
from support.inline_runs import Clean, Go
from support.inline_stages import InlineStages

from malmm.jobs.cli import main
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import SourceError


def test_a_limit_leaves_the_rest_for_another_run(
    go: Go, clean: Clean, place: str, videos: dict[str, Path]
) -> None:
    sources = (videos["three"], videos["two"], videos["whole"])
    first = go(*sources, limit=1)
    assert (first.videos_indexed, first.videos_left) == (1, 2)
    second = go(*sources, limit=1)
    assert (second.videos_indexed, second.videos_left, second.videos_unchanged) == (1, 1, 1)
    third = go(*sources, limit=1)
    assert (third.videos_indexed, third.videos_left, third.videos_unchanged) == (1, 0, 2)
    assert contents(ArchiveReader.open(place)) == clean(*sources)


def test_pruning_forgets_what_is_gone_and_nothing_else(
    go: Go, clean: Clean, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("two", "three"):
        shutil.copy(videos[name], folder / f"{name}.mp4")
    go(folder, videos["whole"])
    (folder / "two.mp4").unlink()
    assert go(folder).videos_pruned == 0
    planned = go(folder, prune=True, dry_run=True)
    assert planned.plan is not None
    assert planned.plan.pruned == (str(folder / "two.mp4"),)
    # The third is not listed this time, but its file is still there.
    assert go(folder, prune=True).videos_pruned == 1
    assert contents(ArchiveReader.open(place)) == clean(folder, videos["whole"])


def test_what_is_left_out_is_not_indexed_and_forgotten_when_pruned(
    go: Go, clean: Clean, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    copies = tmp_path / "copies.jsonl"
    copies.write_text(
        json.dumps({"uri": str(videos["two"]), "whole": True})
        + "\n"
        + json.dumps({"uri": str(videos["three"]), "whole": False, "start_s": 0.0, "end_s": 1.0})
        + "\n"
    )
    both = (videos["two"], videos["three"])
    report = go(*both, leave_out=str(copies))
    assert (report.videos_listed, report.videos_indexed) == (1, 1), report.failures
    assert contents(ArchiveReader.open(place)) == clean(videos["three"])
    assert go(*both).videos_indexed == 1
    assert go(*both, leave_out=str(copies)).videos_pruned == 0
    assert go(*both, leave_out=str(copies), prune=True).videos_pruned == 1
    assert contents(ArchiveReader.open(place)) == clean(videos["three"])
    # Nothing is left of these sources, which is no error.
    assert go(videos["two"], leave_out=str(copies)).videos_listed == 0


def test_nothing_is_pruned_when_a_source_cannot_be_listed(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(videos["two"], folder)
    go(folder, videos["three"])
    before = versions(ArchiveReader.open(place))
    shutil.rmtree(folder)
    with pytest.raises(SourceError, match="nothing was pruned"):
        go(folder, videos["three"], prune=True)
    assert versions(ArchiveReader.open(place)) == before


def test_a_dry_run_says_what_a_run_then_does(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    sources = (videos["two"], videos["three"], videos["none"])
    planned = go(*sources, dry_run=True)
    assert not Path(place).exists()
    assert stages.calls["decoded"] == 0
    plan = planned.plan
    assert plan is not None
    done = go(*sources)
    assert planned.exit_code == done.exit_code == 3
    assert [failure.kind for failure in planned.failures] == ["not_a_video"]
    assert (plan.videos, plan.segments) == (done.videos_indexed, done.segments_indexed)
    assert (plan.memory_slots, plan.texts) == (done.memories, done.annotations)
    assert plan.video_s == pytest.approx(done.video_s, abs=0.1)
    stored = ArchiveReader.open(place).table("memories").to_arrow().drop_columns(["tokens"]).nbytes
    tokens = sum(
        array.nbytes
        for _, array, _ in ArchiveReader.open(place).memory_tokens(
            ArchiveReader.open(place).completed_segments()
        )
    )
    assert plan.storage_bytes == pytest.approx(stored + tokens, rel=0.5)
    assert plan.bytes_read == sum(source.stat().st_size for source in sources)
    assert (plan.hours, plan.gpu_hours) == (None, None)
    assert (done.encoders, done.gpus) == (1, 0)
    again = go(*sources, dry_run=True).plan
    assert again is not None
    assert (again.videos, again.segments) == (0, 0)


@pytest.mark.usefixtures("stages")
def test_the_next_dry_run_goes_by_what_this_archives_own_run_took(
    place: str, videos: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pace is that of encoders that had their models, as the archive's history has it."""
    job, settings = tmp_path / "job.yaml", {"model": "debug", "segment_s": 3.0, "bank_length": 2}

    def content(source: str, *options: str) -> dict[str, Any]:
        job.write_text(json.dumps({"archive": place, "index": settings | {"sources": str(videos[source])}}))
        assert main(["run", str(job), "--json", "--quiet", *options]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert content("two", "--dry-run")["steps"][0]["plan"]["hours"] is None
    done = content("two")["steps"][0]
    assert done["frames"] > 0
    assert done["encoder_s"] > 0
    plan = content("three", "--dry-run")["steps"][0]["plan"]
    assert plan["basis"] == "what 1 earlier run of this archive took"
    assert plan["hours"] == pytest.approx(plan["frames"] * done["encoder_s"] / done["frames"] / 3600)
    assert plan["gpu_hours"] is None
    options = [
        part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = ["index", str(videos["three"]), "--archive", place, *options]
    assert main([*command, "--dry-run", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == plan
