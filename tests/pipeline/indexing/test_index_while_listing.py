"""Runs that begin while files are still being listed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.inline_runs import Go

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import background_listing, segment_commits
from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.sources.listing import SourceFile, list_sources


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
