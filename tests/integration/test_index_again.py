"""Indexing a folder again: what is stored stays, and only what is new, changed or asked for is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archive_contents import contents, versions
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.mixed_folder import BROKEN, LENGTH, NAMES, PROMPTS, SPECS, go, good, make_folder

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.errors import RecipeMismatch
from malmm.pipeline.schema.ids import video_id

NEW_PROMPT = Prompt("colour", "Which colour is it?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module", autouse=True)
def _without_ray() -> Iterator[None]:
    """Run all stages in this process: that workers store the same is test_index_end_to_end's."""
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        yield


@pytest.fixture(scope="module")
def first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ArchiveReader:
    """The folder, indexed once. Copy the archive to go on with it."""
    place = tmp_path_factory.mktemp("archives") / "first"
    assert go(place, folder).exit_code == 3
    return ArchiveReader.open(str(place))


@pytest.fixture
def copied(first: ArchiveReader, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first.uri, tmp_path / "archive"))


def test_a_rerun_does_nothing(first: ArchiveReader, folder: Path) -> None:
    before, before_rows = versions(first), contents(first)
    stages: list[str] = []
    report = go(
        Path(first.uri),
        *good(folder),
        folder / "short.mkv",
        on_progress=lambda progress: stages.append(progress.stage),
    )
    # Neither a cluster nor a model is looked for.
    assert set(stages) == {"listing"}
    assert report.exit_code == 0
    assert (report.videos_unchanged, report.videos_indexed, report.segments_indexed) == (len(SPECS) + 1, 0, 0)
    assert report.annotations == report.memories == 0
    assert versions(first) == before
    assert contents(first) == before_rows


def test_one_more_video_is_indexed_alone(copied: Path, folder: Path, tmp_path: Path) -> None:
    extra = make_video(tmp_path, VideoSpec("extra.mp4", duration_s=7.0))
    archive = ArchiveReader.open(str(copied))
    before = contents(archive)
    report = go(copied, *good(folder), extra)
    assert report.exit_code == 0
    assert (report.videos_unchanged, report.videos_indexed, report.segments_indexed) == (len(SPECS), 1, 2)
    after = contents(archive)
    for name, rows in before.items():
        assert rows.items() <= after[name].items(), name
    new = {row["video_id"] for key, row in after["memories"].items() if key not in before["memories"]}
    assert new == {video_id(str(extra))}
    assert len(after["annotations"]) - len(before["annotations"]) == 3 * len(NAMES)


@pytest.mark.parametrize("retry", [False, True])
def test_what_failed_is_tried_again_when_asked_for_and_nothing_else_is_touched(
    copied: Path, folder: Path, retry: bool
) -> None:
    archive = ArchiveReader.open(str(copied))
    kept = ("videos", "segments", "memories", "annotations", "recipes")
    before = versions(archive, *kept)
    report = go(copied, folder, retry=retry)
    assert report.exit_code == 3
    assert report.videos_given_up == (0 if retry else len(BROKEN))
    assert sorted(failure.kind for failure in report.failures) == sorted(BROKEN.values())
    assert versions(archive, *kept) == before
    attempts = {row["kind"]: row["attempts"] for row in archive.failures().to_pylist()}
    assert attempts == dict.fromkeys(BROKEN.values(), 1 + retry) | {"truncated": 1}


def test_a_changed_file_replaces_its_rows(copied: Path, folder: Path, tmp_path: Path) -> None:
    path = folder / "late.ts"
    archive = ArchiveReader.open(str(copied))
    before = contents(archive)
    kept = tmp_path / "kept.ts"
    shutil.copy2(path, kept)
    shutil.copy(make_video(tmp_path, VideoSpec("changed.ts", duration_s=13.0)), path)
    try:
        report = go(copied, *good(folder))
    finally:
        shutil.copy2(kept, path)
    assert (report.exit_code, report.videos_indexed, report.segments_indexed) == (0, 1, 3)
    after = contents(archive)
    key = video_id(str(path))
    for name in ("segments", "memories", "annotations"):
        others = {row_id: row for row_id, row in before[name].items() if row["video_id"] != key}
        assert others.items() <= after[name].items()
        old = before[name].keys() - others.keys()
        assert old
        assert not old & after[name].keys()
    assert before["videos"].keys() == after["videos"].keys()
    assert after["videos"][key]["duration_s"] == pytest.approx(13.0, abs=0.1)
    of_video = [row for row in after["annotations"].values() if row["video_id"] == key]
    assert len(of_video) == len(NAMES) * (3 + 1)
    assert os.stat(path).st_mtime == os.stat(kept).st_mtime  # noqa: PTH116


def test_a_new_prompt_is_put_to_stored_memory(copied: Path, folder: Path) -> None:
    archive = ArchiveReader.open(str(copied))
    before = contents(archive)
    untouched = versions(archive, "videos", "segments", "memories")
    report = go(copied, *good(folder), prompts=(*PROMPTS, NEW_PROMPT))
    after = contents(archive)
    assert report.exit_code == 0
    assert report.segments_indexed == 0
    new = [row for key, row in after["annotations"].items() if key not in before["annotations"]]
    subjects = archive.count("segments") + archive.count("videos")
    assert report.annotations == len(new) == subjects
    assert {(row["prompt_name"], row["mode"]) for row in new} == {("colour", "replay")}
    assert len({row["segment_id"] or row["video_id"] for row in new}) == subjects
    assert before["annotations"].items() <= after["annotations"].items()
    assert versions(archive, "videos", "segments", "memories") == untouched


def test_another_recipe_is_refused(first: ArchiveReader, folder: Path) -> None:
    before = versions(first)
    with pytest.raises(RecipeMismatch, match=r"--bank-length 4 stored, 5 asked; give|--bank-length 4 stored"):
        go(Path(first.uri), folder, bank_length=LENGTH + 1)
    assert versions(first) == before
