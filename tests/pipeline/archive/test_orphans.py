"""What killed and replaced runs left behind: swept, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from support.archive_rows import (
    RECIPE,
    VECTOR_SIZE,
    annotation,
    annotation_table,
    commit_rows,
    rows,
    segment,
    tokens,
    video,
    video_table,
)

from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.stable_ids import stable_id

NO_ROWS = {"memories": 0, "annotations": 0}


class TestClearingUp:
    def test_sweep_deletes_orphans_only(self, archive):
        commit_rows(archive, 0)
        archive.put_videos(video_table(0))
        whole = [annotation(None, of_video=number, subject=video(number)) for number in (0, 1)]
        archive.add_annotations(annotation_table(*whole))
        (receipt,) = write_rows(archive.uri, rows(1))
        with archive.held():
            archive.changes.append_fragments("memories", list(receipt.memories))
            archive.changes.append("annotations", pa.table(receipt.annotation_rows()))
        assert archive.sweep() == {"memories": 3, "annotations": 2}
        assert archive.sweep() == NO_ROWS
        assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [3, 2, 1]
        archive.commit([receipt])  # the very files that were swept, handed in late
        assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [6, 3, 2]

    def test_a_changed_video_is_replaced(self, archive):
        commit_rows(archive, 0, 1)
        commit_rows(archive, 0, of_video=1)
        archive.put_videos(video_table(0, 1))
        archive.add_annotations(annotation_table(annotation(None, subject="old")))
        commit_rows(archive, 0, fingerprint="second")
        new = segment(0, fingerprint="second")
        deleted = archive.replace_videos({video(0): [new]})
        assert deleted == {"segments": 2, "memories": 6, "annotations": 3}
        archive.put_videos(video_table(0, fingerprint="second"))
        assert archive.completed_segments(video(0)) == {new}
        assert archive.completed_segments(video(1)) == {segment(0, of_video=1)}
        assert archive.completed_videos() == {
            video(0): ("second", RECIPE.recipe_id),
            video(1): ("first", RECIPE.recipe_id),
        }
        assert archive.sweep() == NO_ROWS

    def test_many_videos_are_replaced_at_once(self, archive):
        videos = range(4)
        for number in videos:
            commit_rows(archive, 0, 1, of_video=number)
        archive.put_videos(video_table(*videos))
        whole = [annotation(None, of_video=number, subject=video(number)) for number in videos]
        archive.add_annotations(annotation_table(*whole))
        before = archive.table("segments").version
        kept = {
            video(0): [segment(0), segment(1)],  # all of it
            video(1): [segment(1, of_video=1)],
            video(2): [],
        }
        assert archive.replace_videos(kept) == {"segments": 3, "memories": 9, "annotations": 5}
        assert archive.table("segments").version == before + 1
        left = {video(0): 2, video(1): 1, video(2): 0, video(3): 2}
        assert {key: len(archive.completed_segments(key)) for key in left} == left
        described = [row["video_id"] for row in archive.annotations().to_pylist() if not row["segment_id"]]
        assert sorted(described) == sorted([video(0), video(3)])
        assert archive.replace_videos({}) == {"segments": 0, "memories": 0, "annotations": 0}
        assert archive.sweep() == NO_ROWS

    def test_ids_by_the_thousand(self, archive):
        many = [stable_id(number) for number in range(2500)]
        commit_rows(archive, 0)
        assert archive.completed_among([*many, segment(0)]) == {segment(0)}
        assert archive.replace_videos({video(0): many})["segments"] == 1


def memory_files(archive):
    return {path.name for path in Path(archive.uri, "memories.lance", "data").iterdir()}


class TestFilesThatNobodyCommitted:
    def test_a_sweep_deletes_them_and_nothing_else(self, archive):
        commit_rows(archive, 0)
        reader = archive.table("memories").to_lance()  # at this version
        commit_rows(archive, 1)
        archive.replace_videos({video(0): [segment(1)]})
        archive.compact()
        kept = memory_files(archive)
        before = archive.memory_rows([segment(1)])
        write_rows(archive.uri, rows(2, 3))
        assert len(memory_files(archive) - kept) == 2
        with archive.held():
            assert archive.sweep() == NO_ROWS
            assert memory_files(archive) == kept
            commit_rows(archive, 2)
        assert reader.to_table(columns=["segment_id"])["segment_id"].to_pylist() == 3 * [segment(0)]
        assert archive.memory_rows([segment(1)]).equals(before)
        for key, got, _ in archive.memory_tokens([segment(1), segment(2)]):
            np.testing.assert_array_equal(got, tokens(key))

    def test_while_others_may_write_they_stay(self, archive):
        receipts = write_rows(archive.uri, rows(0))
        archive.sweep()
        archive.commit(receipts)
        assert archive.memory_rows([segment(0)]).num_rows == 3

    def test_without_any_a_sweep_makes_no_version(self, archive):
        commit_rows(archive, 0)
        before = archive.table("memories").version
        with archive.held():
            archive.sweep()
        assert archive.table("memories").version == before

    def test_of_other_files_it_keeps_away_wherever_the_archive_lies(self, tmp_path):
        archive = Archive.create_or_open(str(tmp_path / "data" / "archive"), RECIPE, VECTOR_SIZE)
        commit_rows(archive, 0)
        kept = memory_files(archive)
        half = Path(archive.uri, "memories.lance", "_indices", "half", "index.idx")
        half.parent.mkdir(parents=True)
        half.write_bytes(b"the beginning of an ind")
        before = archive.table("memories").version
        with archive.held():
            archive.sweep()
            assert archive.table("memories").version == before
            write_rows(archive.uri, rows(1))
            assert len(memory_files(archive) - kept) == 1
            archive.sweep()
        assert memory_files(archive) == kept
        assert half.exists()

    def test_a_store_that_refuses_to_delete_stops_nobody(self, archive, monkeypatch):
        write_rows(archive.uri, rows(0))

        def refuse(*_):
            raise PermissionError("it may not be deleted")

        monkeypatch.setattr(LocalFileSystem, "rm", refuse)
        with archive.held():
            archive.sweep()
            commit_rows(archive, 1)
        assert archive.memory_rows([segment(1)]).num_rows == 3
