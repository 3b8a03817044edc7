"""What a run stores, and what a rerun leaves alone, with all stages in this process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.archive_contents import contents, versions
from support.inline_runs import Clean, Go
from support.inline_stages import InlineStages

from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import driver as run
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.errors import ArchiveBusy, SourceError
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.progress import Progress

PEOPLE = Prompt("people", "How many people are there?")


def test_many_small_files_are_merged_before_memory_is_replayed(
    go: Go, place: str, videos: dict[str, Path], stages: InlineStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaying = stages.replaying
    files: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Iterator[pa.Table]:
        files.append(len(ArchiveReader.open(place).table("memories").to_lance().get_fragments()))
        return replaying(*arguments, **options)

    monkeypatch.setattr(run, "replaying", counting)
    monkeypatch.setattr(run, "MANY_FILES", 5)
    report = go(videos["two"], videos["three"])
    assert (report.segments_indexed, files) == (5, [1])


def test_videos_are_stored_and_described(go: Go, place: str, videos: dict[str, Path]) -> None:
    report = go(videos["two"], videos["three"])
    archive = ArchiveReader.open(place)
    assert report.exit_code == 0
    assert (report.videos_listed, report.videos_indexed, report.videos_unchanged) == (2, 2, 0)
    assert report.segments_indexed == archive.count("segments") == 5
    assert report.memories == archive.count("memories")
    assert report.annotations == archive.count("annotations") == 5 + 2
    assert report.frames == sum(archive.segments()["frame_count"].to_pylist())
    assert report.video_s == pytest.approx(14.0, abs=0.2)
    assert set(archive.completed_videos()) == {video_id(str(videos[name])) for name in ("two", "three")}


def test_a_rerun_looks_at_nothing_and_writes_nothing(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    go(videos["two"])
    before = versions(ArchiveReader.open(place))
    stages.calls.clear()
    report = go(videos["two"])
    assert (report.exit_code, report.videos_unchanged, report.annotations) == (0, 1, 0)
    assert not stages.calls
    assert versions(ArchiveReader.open(place)) == before


def test_only_new_videos_are_done(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    go(videos["two"])
    stages.calls.clear()
    report = go(videos["two"], videos["three"])
    assert (report.videos_unchanged, report.videos_indexed, report.segments_indexed) == (1, 1, 3)
    assert (stages.calls["probed"], stages.calls["decoded"], stages.calls["replayed"]) == (1, 3, 1)
    assert contents(ArchiveReader.open(place)) == clean(videos["two"], videos["three"])


def test_a_changed_file_replaces_its_rows(
    go: Go, clean: Clean, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    shutil.copy(videos["three"], path)
    go(path)
    before = contents(ArchiveReader.open(place))
    shutil.copy(videos["two"], path)
    os.utime(path, (1, 1))
    report = go(path)
    after = contents(ArchiveReader.open(place))
    assert (report.videos_indexed, report.segments_indexed) == (1, 2)
    assert after == clean(path)
    for name in ("segments", "memories", "annotations"):
        assert not before[name].keys() & after[name].keys()
    assert before["videos"].keys() == after["videos"].keys()


def test_a_new_prompt_is_put_to_stored_memory_alone(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    go(videos["two"], videos["three"])
    before = contents(ArchiveReader.open(place))
    stages.calls.clear()
    report = go(videos["two"], videos["three"], prompts=(PEOPLE,))
    after = contents(ArchiveReader.open(place))
    assert report.annotations == 5 + 2
    assert dict(stages.calls) == {"replaying": 1, "replayed": 5 + 2}
    new = [row for key, row in after["annotations"].items() if key not in before["annotations"]]
    assert {(row["prompt_name"], row["mode"]) for row in new} == {("people", "replay")}
    assert len(new) == 5 + 2
    assert {name: after[name] for name in ("segments", "memories", "tokens")} == {
        name: before[name] for name in ("segments", "memories", "tokens")
    }


def test_what_is_no_video_is_a_failure_and_the_others_are_stored(
    go: Go, place: str, videos: dict[str, Path]
) -> None:
    for retry, attempts in ((False, 1), (False, 1), (True, 2)):
        report = go(videos["none"], videos["two"], retry=retry)
        assert report.exit_code == 3
        assert [(failure.kind, failure.uri) for failure in report.failures] == [
            ("not_a_video", str(videos["none"]))
        ]
        [row] = ArchiveReader.open(place).failures().to_pylist()
        assert (row["kind"], row["attempts"]) == ("not_a_video", attempts)


def test_without_any_good_video_no_archive_is_made(go: Go, place: str, videos: dict[str, Path]) -> None:
    report = go(videos["none"])
    assert report.exit_code == 1
    assert not Path(place).exists()


def test_a_source_that_gives_nothing_is_a_failure_beside_others(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    report = go(videos["two"], tmp_path / "gone.mp4")
    assert (report.exit_code, report.videos_indexed) == (3, 1)
    assert [failure.kind for failure in report.failures] == ["source"]


def test_sources_that_all_give_nothing_are_an_error(go: Go, place: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.mp4$"):
        go(tmp_path / "gone.mp4")
    with pytest.raises(SourceError, match=r"gone\.mp4; .*lost\.mp4"):
        go(tmp_path / "gone.mp4", tmp_path / "lost.mp4")
    assert not Path(place).exists()


def test_a_file_that_is_cut_short_is_stored_as_far_as_it_goes(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    report = go(videos["short"])
    archive = ArchiveReader.open(place)
    assert report.exit_code == 3
    assert sorted(failure.kind for failure in report.failures) == ["no_frames", "truncated"]
    assert report.videos_indexed == 1
    assert report.segments_indexed == archive.count("segments") == 2
    last = archive.segments().to_pylist()[-1]
    assert last["start_s"] == 3.0
    assert last["start_s"] < last["end_s"] < 6.0
    stages.calls.clear()
    assert go(videos["short"]).exit_code == 0  # known: it is not tried again
    assert not stages.calls
    assert archive.count("failures") == 2


def test_progress_is_told_from_listing_to_describing(go: Go, videos: dict[str, Path]) -> None:
    told: list[Progress] = []
    go(videos["two"], videos["three"], on_progress=told.append)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["listing", "starting", "probing", "indexing", "describing", "building indexes"]
    last = [progress for progress in told if progress.stage == "indexing"][-1]
    assert (last.segments_done, last.segments_total) == (5, 5)
    assert last.video_s_done == last.video_s_total == pytest.approx(14.0, abs=0.2)
    assert (last.videos_done, last.videos_total) == (2, 2)


def test_a_second_writer_changes_nothing(go: Go, place: str, videos: dict[str, Path]) -> None:
    go(videos["two"])
    archive = ArchiveReader.open(place)
    before = versions(archive)
    with Lease.take(archive.uri), pytest.raises(ArchiveBusy, match="is being written by process"):
        go(videos["two"], videos["three"])
    assert versions(archive) == before


def test_what_a_manifest_says_is_kept_and_brought_up_to_date(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri,title\n{videos['two']},one title\n{videos['three']},\n")
    go(manifest)
    said = {row["uri"]: row["metadata"] for row in ArchiveReader.open(place).videos().to_pylist()}
    assert said == {str(videos["two"]): '{"title": "one title"}', str(videos["three"]): ""}
    stages.calls.clear()
    go(videos["two"], videos["three"])
    manifest.write_text(f"uri,title\n{videos['two']},another\n{videos['three']},a third\n")
    report = go(manifest)
    assert (report.videos_unchanged, report.exit_code) == (2, 0)
    assert not stages.calls["probed"]
    said = {row["uri"]: row["metadata"] for row in ArchiveReader.open(place).videos().to_pylist()}
    assert said == {str(videos["two"]): '{"title": "another"}', str(videos["three"]): '{"title": "a third"}'}
