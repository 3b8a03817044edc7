"""Commits: what is stored once, and what a writer knows while it holds the archive."""

from __future__ import annotations

from contextlib import nullcontext

import lance
import numpy as np
import pytest
from support.archive_rows import (
    PROMPT_VERSION,
    annotation,
    annotation_table,
    commit_rows,
    rows,
    segment,
    tokens,
    video,
    video_table,
)

from malmm.pipeline.archive.fencing import raise_fence
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.table_writer import TableWriter
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import ids, tables
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.stable_ids import stable_id


class TestCommit:
    def test_a_second_receipt_is_dropped(self, archive):
        first = write_rows(archive.uri, rows(0, 1))
        second = write_rows(archive.uri, rows(1, 2))
        assert archive.commit(first).segment_ids == (segment(0), segment(1))
        done = archive.commit(second)
        assert (done.segment_ids, done.dropped) == ((segment(2),), (segment(1),))
        assert (done.memories, done.annotations) == (3, 1)
        assert archive.commit([*first, *second]).segment_ids == ()
        assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [9, 3, 3]

    def test_two_receipts_of_a_segment_in_one_commit(self, archive):
        twice = [write_rows(archive.uri, rows(0))[0] for _ in range(2)]
        assert archive.commit(twice).dropped == (segment(0),)
        assert archive.count("memories") == 3

    def test_a_commit_is_one_fragment_of_each_small_table(self, archive):
        commit_rows(archive, *range(5))
        counts = {
            name: len(archive.table(name).to_lance().get_fragments())
            for name in ("memories", "annotations", "segments")
        }
        assert counts == {"memories": 5, "annotations": 1, "segments": 1}

    @pytest.mark.parametrize("held", [False, True])
    def test_nothing_to_do_makes_no_version(self, archive, held):
        commit_rows(archive, 0)
        names = ("memories", "annotations", "segments", "videos", "failures")
        before = [archive.table(name).version for name in names]
        with archive.held() if held else nullcontext():
            self.do_nothing(archive)
        archive.replace_videos(
            {video(0): [segment(0)]}
        )  # Holding, it would look what there is, behind a fence.
        assert [archive.table(name).version for name in names] == before

    def do_nothing(self, archive):
        archive.commit([])
        archive.sweep()
        archive.clear_failures([ids.failure_id(video(0), segment(0), "decode")])
        archive.clear_stale_failures({video(0): []})
        archive.record_failures([])
        archive.put_videos(tables.VIDEOS.empty_table())
        archive.add_annotations(rows(0)["annotations"])
        archive.set_metadata({})
        archive.replace_videos({})

    def test_compaction_changes_no_row(self, archive):
        for number in range(4):
            commit_rows(archive, number)
        archive.replace_videos({video(0): [segment(number) for number in (0, 1, 3)]})
        kept = [segment(number) for number in (3, 0, 1)]
        before = archive.memory_rows(kept)
        assert archive.compact()["memories"] == (3, 1)
        assert archive.memory_rows(kept).equals(before)
        for key, got, _ in archive.memory_tokens(kept):
            np.testing.assert_array_equal(got, tokens(key))
        commit_rows(archive, 2)
        assert archive.count("memories") == 12

    def test_a_table_is_always_at_its_latest_version(self, archive):
        reader = Archive.open(archive.uri)
        assert reader.table("segments").count_rows() == 0
        commit_rows(archive, 0)
        assert reader.table("segments").count_rows() == 1
        assert reader.completed_segments() == {segment(0)}


class TestWhileHeld:
    def test_what_is_done_is_read_once(self, archive, monkeypatch):
        commit_rows(archive, 0)
        archive.put_videos(video_table(0))
        reads = []
        read = TableReader.batches

        def counted(self, name, *more):
            reads.append(name)
            return read(self, name, *more)

        monkeypatch.setattr(TableReader, "batches", counted)
        with archive.held():
            assert commit_rows(archive, 0, 1, of_video=1).dropped == ()
            assert commit_rows(archive, 0, 1).dropped == (segment(0),)
            assert commit_rows(archive, 1, 2).dropped == (segment(1),)
            archive.replace_videos({video(0): [segment(number) for number in range(3)]})
            archive.put_videos(video_table(0, 1))
            archive.put_videos(video_table(1, 2))
        assert sorted(reads) == ["segments", "videos"]
        assert archive.count("segments") == 5
        assert sorted(archive.videos()["video_id"].to_pylist()) == sorted(map(video, range(3)))

    def test_what_another_did_between_is_seen(self, archive):
        with archive.held():
            commit_rows(archive, 0)
        commit_rows(Archive.open(archive.uri), 1)
        with archive.held():
            assert commit_rows(archive, 0, 1, 2).dropped == (segment(0), segment(1))

    def test_what_is_deleted_is_not_done_any_more(self, archive):
        with archive.held():
            commit_rows(archive, 0, 1)
            archive.put_videos(video_table(0))
            archive.replace_videos({video(0): [segment(1)]})
            assert commit_rows(archive, 0, 1).dropped == (segment(1),)
            archive.remove_video(video(0))
            assert commit_rows(archive, 0, 1).dropped == ()
            archive.put_videos(video_table(0))
        assert [archive.count(name) for name in ("segments", "videos")] == [2, 1]

    def test_a_video_whose_writing_failed_or_not_is_written_once(self, archive, monkeypatch):
        append = TableWriter.append

        def written_and_unheard_of(self, name, rows):
            append(self, name, rows)
            raise ArchiveError("the store went away", uri=archive.uri)

        with archive.held():
            with monkeypatch.context() as patch:
                patch.setattr(TableWriter, "append", written_and_unheard_of)
                with pytest.raises(ArchiveError):
                    archive.put_videos(video_table(0))
            archive.put_videos(video_table(0, 1))
        assert archive.count("videos") == 2

    def test_a_commit_that_was_begun_before_fails(self, archive):
        """Of a writer that stopped in the middle of it, and goes on after another took over."""
        begun = archive.table("segments").to_lance()
        with archive.held():
            commit_rows(archive, 0)
            raise_fence(archive.uri, "segments", archive.changes.lease.token)
            with pytest.raises(OSError, match="preempted by concurrent transaction Merge"):
                lance.write_dataset(rows(0)["segments"], begun, mode="append")
        assert archive.count("segments") == 1

    @pytest.mark.parametrize(
        "error", [ArchiveError("the store went away", uri=""), KeyboardInterrupt(), None]
    )
    def test_after_an_error_the_next_writer_refuses_what_may_be_under_way(self, archive, error):
        with pytest.raises(type(error)) if error else nullcontext(), archive.held():
            begun = archive.table("segments").to_lance()
            if error:
                raise error
        with archive.held():
            commit_rows(archive, 0)
        with pytest.raises(OSError, match="preempted") if error else nullcontext():
            lance.write_dataset(rows(0)["segments"], begun, mode="append")

    def test_after_an_error_of_its_own_a_writer_refuses_what_may_be_under_way(self, archive, monkeypatch):
        with archive.held():
            begun = archive.table("segments").to_lance()
            with monkeypatch.context() as patch:
                patch.setattr(lance, "write_dataset", lambda *_, **__: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    commit_rows(archive, 0)
            commit_rows(archive, 0)
            with pytest.raises(OSError, match="preempted"):
                lance.write_dataset(rows(0)["segments"], begun, mode="append")
        assert [archive.count(name) for name in ("segments", "memories", "annotations")] == [1, 3, 1]


class TestAnnotations:
    def test_adding_again_adds_nothing(self, archive):
        commit_rows(archive, 0)
        more = [annotation(segment(0), mode="replay"), annotation(None, subject="whole")]
        assert archive.add_annotations(annotation_table(*more, more[0])) == 2
        assert archive.add_annotations(annotation_table(*more)) == 0
        assert archive.annotations(video(0)).num_rows == 3
        assert archive.annotations(video(1)).num_rows == 0

    def test_ids_by_video_and_prompt(self, archive):
        commit_rows(archive, 0)
        commit_rows(archive, 0, of_video=1)
        assert len(archive.annotation_ids()) == 2
        key = rows(0)["annotations"]["annotation_id"][0].as_py()
        assert archive.annotation_ids(video_id=video(0), prompt_version=PROMPT_VERSION) == {key}
        assert archive.annotation_ids(prompt_version=stable_id("another")) == set()
