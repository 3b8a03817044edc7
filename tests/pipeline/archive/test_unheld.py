"""Changes outside of a ``held`` block: each takes the lease, so that it is fenced like those inside of one."""

from __future__ import annotations

from collections.abc import Callable

import lance
import pytest
from support.archive_rows import annotation, annotation_table, rows, segment, video, video_table

from malmm.pipeline.archive.passes import Pass
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveBusy, ArchiveError
from malmm.pipeline.schema.records import Failure

TABLES = ("videos", "segments", "memories", "annotations", "failures")
FAILURE = Failure(video(0), segment(0), "file:///videos/0.mp4", "decode", "truncated", "it is cut")
TEXT = annotation_table(annotation(None, subject="whole"))
CHANGES: dict[str, Callable[[Archive], object]] = {
    "commit": lambda archive: archive.commit(write_rows(archive.uri, rows(1))),
    "put_videos": lambda archive: archive.put_videos(video_table(1)),
    "set_metadata": lambda archive: archive.set_metadata({video(0): "{}"}),
    "put_given": lambda archive: archive.put_given(TEXT.slice(0, 0)),
    "replace_tracks": lambda archive: archive.replace_tracks(TEXT.slice(0, 0), []),
    "replace_spans": lambda archive: archive.replace_spans(TEXT.slice(0, 0), []),
    "finish_passes": lambda archive: archive.finish_passes([Pass(video(0), "1-2", "tracks", "1")]),
    "add_annotations": lambda archive: archive.add_annotations(TEXT),
    "sweep": Archive.sweep,
    "replace_videos": lambda archive: archive.replace_videos({video(0): []}),
    "remove_video": lambda archive: archive.remove_video(video(0)),
    "record_failures": lambda archive: archive.record_failures([FAILURE]),
    "clear_failures": lambda archive: archive.clear_failures(["0" * 24]),
    "clear_stale_failures": lambda archive: archive.clear_stale_failures({video(0): []}),
    "update_indexes": Archive.update_indexes,
    "compact": Archive.compact,
    "put_in_force": Archive.put_in_force,
    "refuse_older_releases": Archive.refuse_older_releases,
}


def test_no_change_is_made_while_another_writer_holds_the_archive(archive: Archive) -> None:
    other = Archive.open(archive.uri)
    with archive.held():
        archive.commit(write_rows(archive.uri, rows(0)))
        archive.put_videos(video_table(0))
        before = {name: archive.table(name).version for name in TABLES}
        for change in CHANGES.values():
            with pytest.raises(ArchiveBusy, match="is being written by process"):
                change(other)
        assert {name: archive.table(name).version for name in TABLES} == before
    # Each takes the lease, and gives it back for the next one.
    for change in CHANGES.values():
        change(other)
        assert other.changes.lease is None
    with archive.held():
        assert archive.count("failures") == 0


def test_these_are_all_changes() -> None:
    reading = {name for name in vars(ArchiveReader) if not name.startswith("_")}
    own = {name for name, value in vars(Archive).items() if callable(value) and not name.startswith("_")}
    assert own - reading - {"held", "not_yet_here"} == set(CHANGES)


def test_tables_are_not_changed_without_a_lease(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match=r"is not held: change it in a block of `with archive.held\(\):`"):
        archive.changes.append("videos", video_table(0))
    assert archive.count("videos") == 0


def test_after_an_error_the_next_change_refuses_what_may_be_under_way(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.commit(write_rows(archive.uri, rows(1)))
    begun, receipts = archive.table("segments").to_lance(), write_rows(archive.uri, rows(0))
    with monkeypatch.context() as patch:
        patch.setattr(lance, "write_dataset", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            archive.commit(receipts)
    Archive.open(archive.uri).commit(write_rows(archive.uri, rows(0)))
    with pytest.raises(OSError, match="preempted"):
        lance.write_dataset(rows(0)["segments"], begun, mode="append")
