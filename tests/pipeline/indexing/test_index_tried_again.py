"""What failed or was interrupted: what is tried again, when, and what is left alone."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from support.archive_contents import contents, versions
from support.inline_runs import Clean, Go
from support.inline_stages import InlineStages
from support.media import cut

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.rows import Carried


@pytest.mark.parametrize("mishap", ["lost", "OutOfMemoryError"])
def test_what_may_work_another_time_is_tried_again(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path], mishap: str
) -> None:
    stages.mishap = lambda row: mishap if row.segment and row.segment.index == 1 else None
    report = go(videos["two"], videos["three"])
    archive = ArchiveReader.open(place)
    assert report.exit_code == 3
    assert [failure.kind for failure in report.failures] == [
        "worker_lost" if mishap == "lost" else mishap
    ] * 2
    assert (report.segments_indexed, report.videos_indexed) == (3, 0)
    assert archive.count("failures") == 2
    stages.mishap = lambda row: None
    stages.calls.clear()
    report = go(videos["two"], videos["three"])
    assert (report.exit_code, report.segments_resumed, report.segments_indexed) == (0, 3, 2)
    assert stages.calls["decoded"] == 2
    assert archive.count("failures") == 0
    assert contents(archive) == clean(videos["two"], videos["three"])


def test_a_file_whose_prober_died_is_tried_again(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    stages.lost_files = {str(videos["two"])}
    report = go(videos["two"], videos["three"])
    assert [(failure.kind, failure.uri) for failure in report.failures] == [
        ("worker_lost", str(videos["two"]))
    ]
    stages.lost_files = set()
    assert go(videos["two"], videos["three"]).exit_code == 0
    assert ArchiveReader.open(place).count("failures") == 0


@pytest.mark.parametrize("segments", [0, 2, 4])
def test_an_interrupted_run_keeps_what_is_ready_and_is_resumed(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path], segments: int
) -> None:
    stages.interrupt_after = segments
    report = go(videos["two"], videos["three"])
    archive = ArchiveReader.open(place)
    assert report.interrupted
    assert report.exit_code == 130
    assert report.segments_indexed == archive.count("segments") == segments
    assert report.failures == []
    stages.interrupt_after = None
    report = go(videos["two"], videos["three"])
    # A video that was finished already is not looked at again.
    known = sum(len(archive.segments(key)) for key in archive.completed_videos())
    assert known == 5
    assert report.exit_code == 0
    assert report.segments_indexed == 5 - segments
    assert contents(archive) == clean(videos["two"], videos["three"])


def test_what_was_cut_short_is_still_known_after_another_try(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    short = cut(videos["whole"], 0.9, "nearly-whole.mkv")
    go(short)
    expected = {row["failure_id"] for row in ArchiveReader.open(place).failures().to_pylist()}
    assert len(expected) == 1
    shutil.rmtree(place)
    stages.mishap = lambda row: "lost" if row.segment and row.segment.index == 0 else None
    go(short)
    stages.mishap = lambda row: None
    go(short)
    assert {row["failure_id"] for row in ArchiveReader.open(place).failures().to_pylist()} == expected


def test_what_failed_for_good_is_left_alone_until_it_changes(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    shutil.copy(videos["none"], broken)
    go(videos["two"], broken)
    stages.calls.clear()
    before = versions(ArchiveReader.open(place))
    report = go(videos["two"], broken)
    assert not stages.calls
    assert versions(ArchiveReader.open(place)) == before
    assert (report.exit_code, report.videos_given_up, report.videos_unchanged) == (3, 1, 1)
    assert [failure.uri for failure in report.failures] == [str(broken)]
    shutil.copy(videos["three"], broken)
    assert go(videos["two"], broken).exit_code == 0
    assert contents(ArchiveReader.open(place)) == clean(videos["two"], broken)


def test_a_video_of_which_nothing_can_be_stored_is_tried_once(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    stages.mishap = lambda row: (
        "no_frames" if row.video is not None and row.video.uri == str(videos["two"]) else None
    )
    go(videos["two"], videos["three"])
    stages.calls.clear()
    report = go(videos["two"], videos["three"])
    assert not stages.calls
    assert (report.exit_code, report.videos_given_up) == (3, 1)
    stages.mishap = lambda row: None
    report = go(videos["two"], videos["three"], retry=True)
    assert (report.exit_code, report.videos_given_up, report.segments_indexed) == (0, 0, 2)
    assert ArchiveReader.open(place).count("failures") == 0
    assert contents(ArchiveReader.open(place)) == clean(videos["two"], videos["three"])


def test_retrying_does_only_what_failed(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
) -> None:
    stages.mishap = lambda row: "no_frames" if row.segment is not None and row.segment.index == 1 else None
    go(videos["two"], videos["three"])
    stages.mishap = lambda row: None
    stages.calls.clear()
    report = go(videos["two"], videos["three"], retry=True)
    assert (report.exit_code, report.segments_indexed, report.segments_resumed) == (0, 2, 3)
    assert stages.calls["decoded"] == 2
    assert ArchiveReader.open(place).count("failures") == 0


@pytest.mark.parametrize("mishap", ["lost", "OutOfMemoryError"])
def test_what_passes_is_done_within_the_run(
    go: Go, clean: Clean, stages: InlineStages, place: str, videos: dict[str, Path], mishap: str
) -> None:
    tried: Counter[str] = Counter()

    def twice(row: Carried) -> str | None:
        assert row.segment is not None
        tried[row.segment.segment_id] += 1
        return mishap if row.segment.index == 1 and tried[row.segment.segment_id] <= 2 else None

    stages.mishap = twice
    report = go(videos["two"], videos["three"])
    assert (report.exit_code, report.failures, report.segments_indexed) == (0, [], 5)
    assert sorted(tried.values()) == [1, 1, 1, 3, 3]
    assert ArchiveReader.open(place).count("failures") == 0
    stages.mishap = lambda row: None
    assert contents(ArchiveReader.open(place)) == clean(videos["two"], videos["three"])


def test_a_file_that_was_mended_leaves_no_failure(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    path.write_text("not yet a video")
    assert go(path, videos["two"]).exit_code == 3
    shutil.copy(videos["three"], path)
    assert go(path, videos["two"]).exit_code == 0
    assert ArchiveReader.open(place).count("failures") == 0
