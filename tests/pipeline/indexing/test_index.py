"""What the driver decides, with all stages in this process."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.archive_contents import contents, versions
from support.inline_stages import InlineStages
from support.media import VideoSpec, cut, make_video

from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import background_listing, run_loop, segment_commits
from malmm.pipeline.indexing import driver as run
from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig, Prompt
from malmm.pipeline.schema.errors import ArchiveBusy, RecipeMismatch, SourceError, WorkerError
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.rows import Carried
from malmm.pipeline.sources.listing import SourceFile, list_sources

PEOPLE = Prompt("people", "How many people are there?")
OPTIONS = {"model": "debug", "fps": 1.0, "segment_s": 3.0, "bank_length": 2, "max_new_tokens": 3}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos of 2 and 3 segments, one that is cut short, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("videos")
    whole = make_video(folder, VideoSpec("whole.mkv", duration_s=9.0))
    made = {
        "two": make_video(folder, VideoSpec("two.mp4", duration_s=6.0)),
        "three": make_video(folder, VideoSpec("three.mp4", duration_s=8.0, source="smptebars")),
        "short": cut(whole, 0.6, "short.mkv"),
        "whole": whole,
        "none": folder / "none.mp4",
    }
    made["none"].write_text("not a video")
    return made


@pytest.fixture(scope="module")
def shared_stages() -> InlineStages:
    return InlineStages()


@pytest.fixture
def stages(shared_stages: InlineStages, monkeypatch: pytest.MonkeyPatch) -> InlineStages:
    shared_stages.install(monkeypatch)
    monkeypatch.setattr(run_loop, "RETRY_PAUSES_S", (0.0, 0.0))
    shared_stages.calls.clear()
    shared_stages.mishap = lambda row: None
    shared_stages.lost_files = set()
    shared_stages.interrupt_after = None
    return shared_stages


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "archive")


Go = Callable[..., IndexReport]


@pytest.fixture
def go(stages: InlineStages, place: str) -> Go:
    """Index sources into the test's archive."""

    def index_(*sources: Path | str, on_progress: OnProgress | None = None, **changes: object) -> IndexReport:
        options: dict[str, object] = {"sources": tuple(map(str, sources)), "archive": place, **OPTIONS}
        return index(IndexConfig(**(options | changes)), on_progress=on_progress)  # type: ignore[arg-type]

    return index_


def clean(go: Go, place: str, *sources: Path, **changes: object) -> dict[str, object]:
    """What one run without mishap stores."""
    other = f"{place}-clean"
    shutil.rmtree(other, ignore_errors=True)
    go(*sources, archive=other, **changes)
    return contents(ArchiveReader.open(other))


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


def test_a_segment_is_committed_while_files_are_still_listed(
    go: Go, place: str, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = threading.Event()
    waited: list[bool] = []

    def slow(sources: tuple[str, ...]) -> Iterator[SourceFile | SourceError]:
        yield from list_sources(sources[:1])
        waited.append(committed.wait(300))
        yield from list_sources(sources[1:])

    def watch(progress: Progress) -> None:
        told.append(progress)
        if progress.segments_done:
            committed.set()

    told: list[Progress] = []
    monkeypatch.setattr(background_listing, "list_sources", slow)
    monkeypatch.setattr(segment_commits, "COMMIT_EVERY_S", 0.0)
    report = go(videos["two"], videos["three"], videos["none"], on_progress=watch)
    assert waited == [True]
    assert (report.videos_listed, report.videos_indexed, report.segments_indexed) == (3, 2, 5)
    assert [failure.kind for failure in report.failures] == ["not_a_video"]
    indexing = [progress for progress in told if progress.stage == "indexing"]
    assert (indexing[0].so_far, indexing[-1].so_far) == (True, False)
    assert indexing[0].segments_total < indexing[-1].segments_total == 5
    monkeypatch.undo()
    assert [row["uri"] for row in ArchiveReader.open(place).videos().to_pylist()] == sorted(
        str(videos[name]) for name in ("two", "three")
    )


def test_a_listing_that_fails_in_the_middle_keeps_what_was_done(
    go: Go, place: str, videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = threading.Event()

    def failing(sources: tuple[str, ...]) -> Iterator[SourceFile | SourceError]:
        yield from list_sources(sources)
        committed.wait(300)
        raise RuntimeError("the network went away")

    monkeypatch.setattr(background_listing, "list_sources", failing)
    monkeypatch.setattr(segment_commits, "COMMIT_EVERY_S", 0.0)

    def watch(progress: Progress) -> None:
        if progress.segments_done:
            committed.set()

    with pytest.raises(RuntimeError, match="went away"):
        go(videos["two"], on_progress=watch)
    assert ArchiveReader.open(place).count("segments") >= 1


def test_compiling_is_no_part_of_the_recipe_and_is_tried_before_a_file_is_opened(
    go: Go, place: str, videos: dict[str, Path], stages: InlineStages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(resources: Any) -> None:
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


def test_only_new_videos_are_done(go: Go, stages: InlineStages, place: str, videos: dict[str, Path]) -> None:
    go(videos["two"])
    stages.calls.clear()
    report = go(videos["two"], videos["three"])
    assert (report.videos_unchanged, report.videos_indexed, report.segments_indexed) == (1, 1, 3)
    assert (stages.calls["probed"], stages.calls["decoded"], stages.calls["replayed"]) == (1, 3, 1)
    assert contents(ArchiveReader.open(place)) == clean(go, place, videos["two"], videos["three"])


def test_a_changed_file_replaces_its_rows(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
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
    assert after == clean(go, place, path)
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


def test_a_file_that_was_mended_leaves_no_failure(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    path.write_text("not yet a video")
    assert go(path, videos["two"]).exit_code == 3
    shutil.copy(videos["three"], path)
    assert go(path, videos["two"]).exit_code == 0
    assert ArchiveReader.open(place).count("failures") == 0


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


@pytest.mark.parametrize("mishap", ["lost", "OutOfMemoryError"])
def test_what_may_work_another_time_is_tried_again(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path], mishap: str
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
    assert contents(archive) == clean(go, place, videos["two"], videos["three"])


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
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path], segments: int
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
    assert contents(archive) == clean(go, place, videos["two"], videos["three"])


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


def test_settings_that_change_no_row_are_no_other_recipe(go: Go, place: str, videos: dict[str, Path]) -> None:
    go(videos["two"])
    report = go(videos["two"], videos["three"], batch_segments=1)
    assert report.exit_code == 0
    assert contents(ArchiveReader.open(place)) == clean(go, place, videos["two"], videos["three"])


def test_progress_is_told_from_listing_to_describing(go: Go, videos: dict[str, Path]) -> None:
    told: list[Progress] = []
    go(videos["two"], videos["three"], on_progress=told.append)
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["listing", "starting", "probing", "indexing", "describing", "building indexes"]
    last = [progress for progress in told if progress.stage == "indexing"][-1]
    assert (last.segments_done, last.segments_total) == (5, 5)
    assert last.video_s_done == last.video_s_total == pytest.approx(14.0, abs=0.2)
    assert (last.videos_done, last.videos_total) == (2, 2)


def test_what_failed_for_good_is_left_alone_until_it_changes(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path], tmp_path: Path
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
    assert contents(ArchiveReader.open(place)) == clean(go, place, videos["two"], broken)


def test_a_video_of_which_nothing_can_be_stored_is_tried_once(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
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
    assert contents(ArchiveReader.open(place)) == clean(go, place, videos["two"], videos["three"])


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


def test_a_limit_leaves_the_rest_for_another_run(go: Go, place: str, videos: dict[str, Path]) -> None:
    sources = (videos["three"], videos["two"], videos["whole"])
    first = go(*sources, limit=1)
    assert (first.videos_indexed, first.videos_left) == (1, 2)
    second = go(*sources, limit=1)
    assert (second.videos_indexed, second.videos_left, second.videos_unchanged) == (1, 1, 1)
    third = go(*sources, limit=1)
    assert (third.videos_indexed, third.videos_left, third.videos_unchanged) == (1, 0, 2)
    assert contents(ArchiveReader.open(place)) == clean(go, place, *sources)


def test_pruning_forgets_what_is_gone_and_nothing_else(
    go: Go, place: str, videos: dict[str, Path], tmp_path: Path
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
    assert contents(ArchiveReader.open(place)) == clean(go, place, folder, videos["whole"])


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
    again = go(*sources, dry_run=True).plan
    assert again is not None
    assert (again.videos, again.segments) == (0, 0)


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


@pytest.mark.parametrize("mishap", ["lost", "OutOfMemoryError"])
def test_what_passes_is_done_within_the_run(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path], mishap: str
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
    assert contents(ArchiveReader.open(place)) == clean(go, place, videos["two"], videos["three"])


def test_a_new_recipe_is_made_beside_the_old_one_and_takes_its_place_when_all_is_there(
    go: Go, stages: InlineStages, place: str, videos: dict[str, Path]
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
    assert after == clean(go, place, *sources, bank_length=1)
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
