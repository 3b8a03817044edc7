"""Runs that share the videos of one job: together they store what one run does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents
from support.inline_runs import Clean, index_into
from support.inline_stages import InlineStages

from malmm.jobs.cli import main
from malmm.pipeline.archive.joined import members_of, open_archives
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import AnnotateConfig, Prompt
from malmm.pipeline.schema.errors import ConfigError, RecipeMismatch, SourceError
from malmm.pipeline.schema.partition import Partition, all_partitions, partition_index
from malmm.pipeline.searching.searcher import Searcher

#: Indexes the share of a partition, by its index, of sources.
Share = Callable[..., IndexReport]
NUMBER = 3


@pytest.fixture
def share(stages: InlineStages, place: str) -> Share:
    def run(index: int, *sources: Path, number: int = NUMBER, **changes: Any) -> IndexReport:
        partition = Partition(number, index)
        return index_into(partition.below(place), *sources, partition=partition, **changes)

    return run


@pytest.fixture
def folder(videos: dict[str, Path], tmp_path: Path) -> Path:
    """Three videos and a file that is not a video."""
    made = tmp_path / "films"
    made.mkdir()
    for number in range(3):
        shutil.copy(videos["three" if number == 2 else "two"], made / f"{number}.mp4")
    shutil.copy(videos["none"], made / "none.mp4")
    return made


def own(folder: Path, index: int) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if partition_index(str(path), NUMBER) == index)


def test_all_partitions_together_store_what_one_run_does(
    share: Share, stages: InlineStages, clean: Clean, folder: Path, place: str
) -> None:
    whole = clean(folder)
    # The last comes first, and one is stopped in the middle and run again.
    stages.interrupt_after = 1
    stopped = [share(index, folder).interrupted for index in (2, 1, 0)]
    stages.interrupt_after = None
    reports = [share(index, folder) for index in (2, 0, 1)]
    assert any(stopped)
    assert {report.interrupted for report in reports} == {False}
    archive = open_archives(place)
    assert contents(archive) == whole
    assert sum(report.videos_listed for report in reports) == 4
    assert {report.videos_listed + report.videos_elsewhere for report in reports} == {4}
    members = members_of(archive)
    assert members is not None
    assert [member.name for member in members.all] == [each.name for each in all_partitions(NUMBER)]
    for index, member in enumerate(members.all):
        stored = {row["uri"] for row in member.reader.videos().to_pylist()}
        assert stored == {uri for uri in own(folder, index) if not uri.endswith("none.mp4")}
    failed = [failure.uri for report in reports for failure in report.failures]
    assert failed == [str(folder / "none.mp4")]
    again = [share(index, folder) for index in range(NUMBER)]
    assert sum(report.segments_indexed for report in again) == 0
    assert sum(report.videos_unchanged for report in again) == 3


def test_partitions_without_videos_are_archives_too(
    share: Share, videos: dict[str, Path], place: str
) -> None:
    home = partition_index(str(videos["two"]), NUMBER)
    first = (home + 1) % NUMBER
    report = share(first, videos["two"])
    assert (report.exit_code, report.videos_listed, report.videos_elsewhere) == (0, 0, 1)
    asked = annotate(AnnotateConfig(Partition(NUMBER, first).below(place), (Prompt("count", "How many?"),)))
    assert (asked.exit_code, asked.missing, asked.texts) == (0, 0, 0)
    with pytest.raises(SourceError):
        share(home, videos["two"].parent / "gone.mp4")
    archive = open_archives(place)
    assert (archive.count("videos"), len(archive.archives)) == (0, NUMBER)
    assert Searcher(archive).search("a circle", signals=("text",)) == []
    assert share(home, videos["two"]).videos_indexed == 1
    assert archive.count("videos") == 1
    members = members_of(archive)
    assert members is not None
    assert members.left_out == ()


def test_what_the_first_run_fixed_holds_for_all(share: Share, videos: dict[str, Path], place: str) -> None:
    share(0, videos["two"])
    with pytest.raises(RecipeMismatch, match=r"--fps 1.0 stored, 2.0 asked\): they are fixed for all"):
        share(1, videos["two"], fps=2.0)
    with pytest.raises(ConfigError, match="has 3 partitions, and --partitions 4 was asked"):
        share(1, videos["two"], number=4)
    with pytest.raises(ConfigError, match="--partitions 3 --partition 1"):
        index_into(Partition(NUMBER, 1).below(place), videos["two"])
    with pytest.raises(ConfigError, match="--reindex: the recipe of an archive in partitions is fixed"):
        share(1, videos["two"], reindex=True)
    # Without a model it is the fixed one.
    assert share(1, videos["two"], model="").model == "debug"


def test_a_dry_run_makes_nothing(share: Share, videos: dict[str, Path], place: str) -> None:
    plans = [share(index, videos["two"], videos["three"], dry_run=True).plan for index in range(NUMBER)]
    assert sum(plan.videos for plan in plans if plan is not None) == 2
    assert not Path(place).exists()
    share(0, videos["two"])
    with pytest.raises(RecipeMismatch):
        share(1, videos["two"], fps=2.0, dry_run=True)


def test_a_source_that_cannot_be_listed_is_one_partitions_failure(
    share: Share, videos: dict[str, Path], tmp_path: Path
) -> None:
    gone = tmp_path / "gone.mp4"
    reports = [share(index, videos["two"], gone) for index in range(NUMBER)]
    found = [[failure.uri for failure in report.failures] for report in reports]
    home = partition_index(str(gone), NUMBER)
    assert found == [[str(gone)] if index == home else [] for index in range(NUMBER)]
    assert {report.exit_code for report in reports} <= {0, 1, 3}
    assert reports[home].exit_code != 0


def test_pruning_waits_for_the_listings_of_all(share: Share, folder: Path, place: str) -> None:
    gone = str(folder / "0.mp4")
    home = partition_index(gone, NUMBER)
    first, second = (index for index in range(NUMBER) if index != home)
    for index in (first, second, home):
        share(index, folder, prune=True)
    archive = open_archives(place)
    Path(gone).unlink()
    # When it pruned last, the others had listed: what they list from now on counts.
    report = share(home, folder, prune=True)
    assert (report.videos_pruned, report.videos_kept) == (0, 1)
    share(first, folder, prune=True)
    report = share(home, folder, prune=True)
    assert (report.videos_kept, report.not_listed) == (1, [Partition(NUMBER, second).name])
    # A run that lists other sources, or fails to list them, or does not prune, is no listing of these.
    share(second, folder / "1.mp4", prune=True)
    share(second, folder)
    with pytest.raises(SourceError):
        share(second, folder, folder / "gone", prune=True)
    assert share(home, folder, prune=True).videos_kept == 1
    assert gone in {row["uri"] for row in archive.videos().to_pylist()}
    share(second, folder, prune=True)
    report = share(home, folder, prune=True)
    assert (report.videos_pruned, report.videos_kept, report.not_listed) == (1, 0, [])
    assert archive.count("videos") == 2


def test_what_is_kept_goes_at_the_end_if_all_have_listed_by_then(
    share: Share, stages: InlineStages, folder: Path, place: str
) -> None:
    gone = folder / "0.mp4"
    home = partition_index(str(gone), NUMBER)
    share(home, folder)
    gone.unlink()
    for number in range(20):
        new = folder / f"new-{number}.mp4"
        shutil.copy(folder / "1.mp4", new)
        if partition_index(str(new), NUMBER) == home:
            break
        new.unlink()
    began: list[str] = []

    def others_list(progress: Any) -> None:
        if progress.stage == "indexing" and not began:
            began.append(progress.stage)
            for index in range(NUMBER):
                if index != home:
                    partition = Partition(NUMBER, index)
                    index_into(partition.below(place), folder, partition=partition, prune=True, limit=1)

    report = share(home, folder, prune=True, on_progress=others_list)
    assert began
    assert (report.videos_indexed, report.videos_pruned, report.videos_kept) == (1, 1, 0)


SETTINGS = {"model": "debug", "fps": 1.0, "segment_s": 3.0, "bank_length": 2, "max_new_tokens": 3}


def test_commands_take_all_partitions_in_turn(
    stages: InlineStages, clean: Clean, folder: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        part for name, value in SETTINGS.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = ["index", str(folder), "--archive", place, "--partitions", "2", *options, "--prune", "--quiet"]
    (folder / "none.mp4").unlink()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert f"Archive   {place}/part-0000\n" in said
    assert f"Archive   {place}/part-0001\n" in said
    assert contents(open_archives(place)) == clean(folder)
    # Whichever partition comes first waits for the other, and has a second turn.
    (folder / "0.mp4").unlink()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["exit_code"], [each["partition"]["index"] for each in found["partitions"]]) == (0, [0, 1])
    assert {each["videos_kept"] for each in found["partitions"]} == {0}
    assert open_archives(place).count("videos") == 2
    assert main([*command, "--partition", "2"]) == 2
    assert main([*command[:4], "--partition", "1"]) == 2
    assert "say of how many, such as --partitions 8" in capsys.readouterr().err
    # The same in a job file.
    (folder / "1.mp4").unlink()
    index = SETTINGS | {"sources": str(folder), "prune": True}
    job = folder.parent / "films.yaml"
    job.write_text(
        json.dumps({"archive": place, "partitions": 2, "steps": [{"index": index}, {"optimize": {}}]})
    )
    assert main(["run", str(job), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["archive"] for each in found["partitions"]] == [f"{place}/part-000{each}" for each in (0, 1)]
    assert [[step["kind"] for step in each["steps"]] for each in found["partitions"]] == [
        ["index", "optimize"]
    ] * 2
    assert open_archives(place).count("videos") == 1
    assert main(["run", str(job), "--partition", "1", "--dry-run", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["archive"] == f"{place}/part-0001"
    for index_of in range(2):
        assert read_runs(f"{place}/part-000{index_of}")[0].job == "films"
