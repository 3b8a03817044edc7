from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from support.archive_rows import (
    PROMPT_VERSION,
    RECIPE,
    VECTOR_SIZE,
    annotation,
    annotation_table,
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
from malmm.pipeline.schema import ids, records, tables
from malmm.pipeline.schema.config import stable_id
from malmm.pipeline.schema.errors import ArchiveError, RecipeMismatch

NO_ROWS = {"memories": 0, "annotations": 0}


@pytest.fixture
def archive(tmp_path):
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)


def index(archive, *numbers, **options):
    return archive.commit(write_rows(archive.uri, rows(*numbers, **options)))


class TestCreation:
    def test_tables_have_the_schemas_of_records(self, archive):
        for name, schema in tables.table_schemas(VECTOR_SIZE).items():
            assert archive.schema(name).equals(schema, check_metadata=True), name
        assert archive.recipe == RECIPE
        assert Archive.open(archive.uri).recipe == RECIPE

    def test_opening_again_keeps_the_rows(self, archive):
        index(archive, 0)
        again = Archive.create_or_open(archive.uri, RECIPE, VECTOR_SIZE)
        assert again.completed_segments() == {segment(0)}

    def test_a_moved_checkpoint_is_the_same_recipe(self, archive):
        moved = dataclasses.replace(RECIPE, model="/elsewhere/debug")
        assert Archive.create_or_open(archive.uri, moved, VECTOR_SIZE).recipe == RECIPE

    def test_a_relative_path_becomes_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        archive = Archive.create_or_open("some/archive", RECIPE, VECTOR_SIZE)
        assert archive.uri == str(tmp_path / "some" / "archive")
        assert Archive.open(f"file://{archive.uri}").uri == archive.uri

    def test_other_options_are_named_as_the_user_knows_them(self, archive):
        other = dataclasses.replace(RECIPE, fps=2.0, bank_length=10)
        with pytest.raises(RecipeMismatch) as caught:
            Archive.create_or_open(archive.uri, other, VECTOR_SIZE)
        assert "--fps 1.0 stored, 2.0 asked; --bank-length 20 stored, 10 asked" in str(caught.value)
        assert "another --archive" in str(caught.value)
        assert caught.value.differences == [("fps", "1.0", "2.0"), ("bank_length", "20", "10")]

    def test_another_model_is_named_not_its_hash(self, archive):
        other = dataclasses.replace(RECIPE, model="big", model_fingerprint="cccc")
        with pytest.raises(RecipeMismatch, match="--model debug stored, big asked"):
            Archive.create_or_open(archive.uri, other, VECTOR_SIZE)
        retrained = dataclasses.replace(RECIPE, model_fingerprint="cccc")
        with pytest.raises(RecipeMismatch, match="--model debug has other weights"):
            Archive.create_or_open(archive.uri, retrained, VECTOR_SIZE)

    def test_other_vectors_are_refused(self, archive):
        with pytest.raises(ArchiveError, match="vectors of 16 numbers"):
            Archive.create_or_open(archive.uri, RECIPE, 16)

    @pytest.mark.parametrize("made", range(6))
    def test_a_killed_creation_is_completed(self, tmp_path, made):
        place = tmp_path / "archive"
        schemas = tables.table_schemas(VECTOR_SIZE)
        for name in [name for name in schemas if name != "recipes"][:made]:
            lance.write_dataset(schemas[name].empty_table(), str(place / f"{name}.lance"))
        half = place / "recipes.lance" / "data"  # files without a manifest
        half.mkdir(parents=True)
        (half / "0.lance").write_bytes(b"half a fi")
        with pytest.raises(ArchiveError, match="there is no archive"):
            Archive.open(str(place))
        archive = Archive.create_or_open(str(place), RECIPE, VECTOR_SIZE)
        index(archive, 0)
        assert Archive.open(str(place)).count("memories") == 3

    def test_a_creation_killed_for_another_model_leaves_nothing_in_the_way(self, tmp_path):
        place = str(tmp_path / "archive")
        lance.write_dataset(tables.memories_schema(16).empty_table(), f"{place}/memories.lance")
        archive = Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
        assert archive.schema("memories").equals(tables.memories_schema(VECTOR_SIZE))

    def test_a_file_is_refused(self, tmp_path):
        file = tmp_path / "film.mp4"
        file.write_bytes(b"x")
        for place, said in ((file, "it is a file"), (file / "archive", "film.mp4 is a file")):
            with pytest.raises(ArchiveError, match=said):
                Archive.create_or_open(str(place), RECIPE, VECTOR_SIZE)

    def test_a_directory_of_other_things_is_refused_and_left_alone(self, tmp_path):
        (tmp_path / "holiday.mp4").write_bytes(b"x")
        with pytest.raises(ArchiveError, match=r"not empty and not an archive \(it holds 'holiday.mp4'\)"):
            Archive.create_or_open(str(tmp_path), RECIPE, VECTOR_SIZE)
        assert [entry.name for entry in tmp_path.iterdir()] == ["holiday.mp4"]

    def test_an_empty_directory_with_a_hidden_file_will_do(self, tmp_path):
        (tmp_path / ".DS_Store").write_bytes(b"x")
        Archive.create_or_open(str(tmp_path), RECIPE, VECTOR_SIZE)

    def test_tables_with_rows_but_no_recipe_are_refused(self, tmp_path):
        lance.write_dataset(rows(0)["segments"], str(tmp_path / "segments.lance"))
        with pytest.raises(ArchiveError, match="with rows but no recipe"):
            Archive.create_or_open(str(tmp_path), RECIPE, VECTOR_SIZE)

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({}, "an older version of malmm-ray"),
            ({"format": tables.FORMAT + 1}, "a newer version of malmm-ray"),
            ({"format": tables.FORMAT}, "is damaged"),
        ],
    )
    def test_a_recipe_of_another_version_is_named(self, tmp_path, row, said):
        row = {"recipe_id": "0", "recipe": '{"novel": 1}', "created_at": None, "number": 0, "place": ""} | row
        lance.write_dataset(pa.Table.from_pylist([row]), str(tmp_path / "recipes.lance"))
        with pytest.raises(ArchiveError, match=said):
            Archive.open(str(tmp_path))

    @pytest.mark.needs("proc")
    def test_a_place_that_cannot_be_written(self):
        with pytest.raises(ArchiveError, match="cannot"):
            Archive.create_or_open("/proc/archive", RECIPE, VECTOR_SIZE)

    @pytest.mark.needs("ordinary user")
    def test_a_directory_without_permission(self, tmp_path):
        tmp_path.chmod(0o555)
        with pytest.raises(ArchiveError, match="cannot write to"):
            Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)

    def test_opening_nothing_says_how_to_make_one(self, tmp_path):
        with pytest.raises(ArchiveError, match="malmm index") as caught:
            Archive.open(str(tmp_path / "none"))
        assert str(tmp_path / "none") in str(caught.value)
        assert not (tmp_path / "none").exists()


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
        index(archive, *range(5))
        counts = {
            name: len(archive.table(name).to_lance().get_fragments())
            for name in ("memories", "annotations", "segments")
        }
        assert counts == {"memories": 5, "annotations": 1, "segments": 1}

    @pytest.mark.parametrize("held", [False, True])
    def test_nothing_to_do_makes_no_version(self, archive, held):
        index(archive, 0)
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
            index(archive, number)
        archive.replace_videos({video(0): [segment(number) for number in (0, 1, 3)]})
        kept = [segment(number) for number in (3, 0, 1)]
        before = archive.memory_rows(kept)
        assert archive.compact()["memories"] == (3, 1)
        assert archive.memory_rows(kept).equals(before)
        for key, got, _ in archive.memory_tokens(kept):
            np.testing.assert_array_equal(got, tokens(key))
        index(archive, 2)
        assert archive.count("memories") == 12

    def test_a_table_is_always_at_its_latest_version(self, archive):
        reader = Archive.open(archive.uri)
        assert reader.table("segments").count_rows() == 0
        index(archive, 0)
        assert reader.table("segments").count_rows() == 1
        assert reader.completed_segments() == {segment(0)}


class TestWhileHeld:
    def test_what_is_done_is_read_once(self, archive, monkeypatch):
        index(archive, 0)
        archive.put_videos(video_table(0))
        reads = []
        read = TableReader.batches

        def counted(self, name, *more):
            reads.append(name)
            return read(self, name, *more)

        monkeypatch.setattr(TableReader, "batches", counted)
        with archive.held():
            assert index(archive, 0, 1, of_video=1).dropped == ()
            assert index(archive, 0, 1).dropped == (segment(0),)
            assert index(archive, 1, 2).dropped == (segment(1),)
            archive.replace_videos({video(0): [segment(number) for number in range(3)]})
            archive.put_videos(video_table(0, 1))
            archive.put_videos(video_table(1, 2))
        assert sorted(reads) == ["segments", "videos"]
        assert archive.count("segments") == 5
        assert sorted(archive.videos()["video_id"].to_pylist()) == sorted(map(video, range(3)))

    def test_what_another_did_between_is_seen(self, archive):
        with archive.held():
            index(archive, 0)
        index(Archive.open(archive.uri), 1)
        with archive.held():
            assert index(archive, 0, 1, 2).dropped == (segment(0), segment(1))

    def test_what_is_deleted_is_not_done_any_more(self, archive):
        with archive.held():
            index(archive, 0, 1)
            archive.put_videos(video_table(0))
            archive.replace_videos({video(0): [segment(1)]})
            assert index(archive, 0, 1).dropped == (segment(1),)
            archive.remove_video(video(0))
            assert index(archive, 0, 1).dropped == ()
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
            index(archive, 0)
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
            index(archive, 0)
        with pytest.raises(OSError, match="preempted") if error else nullcontext():
            lance.write_dataset(rows(0)["segments"], begun, mode="append")

    def test_after_an_error_of_its_own_a_writer_refuses_what_may_be_under_way(self, archive, monkeypatch):
        with archive.held():
            begun = archive.table("segments").to_lance()
            with monkeypatch.context() as patch:
                patch.setattr(lance, "write_dataset", lambda *_, **__: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    index(archive, 0)
            index(archive, 0)
            with pytest.raises(OSError, match="preempted"):
                lance.write_dataset(rows(0)["segments"], begun, mode="append")
        assert [archive.count(name) for name in ("segments", "memories", "annotations")] == [1, 3, 1]


class TestClearingUp:
    def test_sweep_deletes_orphans_only(self, archive):
        index(archive, 0)
        archive.put_videos(video_table(0))
        whole = [annotation(None, of_video=number, subject=video(number)) for number in (0, 1)]
        archive.add_annotations(annotation_table(*whole))
        (receipt,) = write_rows(archive.uri, rows(1))
        archive.changes.append_fragments("memories", list(receipt.memories))
        archive.changes.append("annotations", pa.table(receipt.annotation_rows()))
        assert archive.sweep() == {"memories": 3, "annotations": 2}
        assert archive.sweep() == NO_ROWS
        assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [3, 2, 1]
        archive.commit([receipt])  # the very files that were swept, handed in late
        assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [6, 3, 2]

    def test_a_changed_video_is_replaced(self, archive):
        index(archive, 0, 1)
        index(archive, 0, of_video=1)
        archive.put_videos(video_table(0, 1))
        archive.add_annotations(annotation_table(annotation(None, subject="old")))
        index(archive, 0, fingerprint="second")
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
            index(archive, 0, 1, of_video=number)
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
        index(archive, 0)
        assert archive.completed_among([*many, segment(0)]) == {segment(0)}
        assert archive.replace_videos({video(0): many})["segments"] == 1


def memory_files(archive):
    return {path.name for path in Path(archive.uri, "memories.lance", "data").iterdir()}


class TestFilesThatNobodyCommitted:
    def test_a_sweep_deletes_them_and_nothing_else(self, archive):
        index(archive, 0)
        reader = archive.table("memories").to_lance()  # at this version
        index(archive, 1)
        archive.replace_videos({video(0): [segment(1)]})
        archive.compact()
        kept = memory_files(archive)
        before = archive.memory_rows([segment(1)])
        write_rows(archive.uri, rows(2, 3))
        assert len(memory_files(archive) - kept) == 2
        with archive.held():
            assert archive.sweep() == NO_ROWS
            assert memory_files(archive) == kept
            index(archive, 2)
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
        index(archive, 0)
        before = archive.table("memories").version
        with archive.held():
            archive.sweep()
        assert archive.table("memories").version == before

    def test_of_other_files_it_keeps_away_wherever_the_archive_lies(self, tmp_path):
        archive = Archive.create_or_open(str(tmp_path / "data" / "archive"), RECIPE, VECTOR_SIZE)
        index(archive, 0)
        half = Path(archive.uri, "memories.lance", "_indices", "half", "index.idx")
        half.parent.mkdir(parents=True)
        half.write_bytes(b"the beginning of an ind")
        before = archive.table("memories").version
        with archive.held():
            archive.sweep()
            assert archive.table("memories").version == before
            write_rows(archive.uri, rows(1))
            assert len(memory_files(archive)) == 2
            archive.sweep()
        assert len(memory_files(archive)) == 1
        assert half.exists()

    def test_a_store_that_refuses_to_delete_stops_nobody(self, archive, monkeypatch):
        write_rows(archive.uri, rows(0))

        def refuse(*_):
            raise PermissionError("it may not be deleted")

        monkeypatch.setattr(LocalFileSystem, "rm", refuse)
        with archive.held():
            archive.sweep()
            index(archive, 1)
        assert archive.memory_rows([segment(1)]).num_rows == 3


class TestAnnotations:
    def test_adding_again_adds_nothing(self, archive):
        index(archive, 0)
        more = [annotation(segment(0), mode="replay"), annotation(None, subject="whole")]
        assert archive.add_annotations(annotation_table(*more, more[0])) == 2
        assert archive.add_annotations(annotation_table(*more)) == 0
        assert archive.annotations(video(0)).num_rows == 3
        assert archive.annotations(video(1)).num_rows == 0

    def test_ids_by_video_and_prompt(self, archive):
        index(archive, 0)
        index(archive, 0, of_video=1)
        assert len(archive.annotation_ids()) == 2
        key = rows(0)["annotations"]["annotation_id"][0].as_py()
        assert archive.annotation_ids(video_id=video(0), prompt_version=PROMPT_VERSION) == {key}
        assert archive.annotation_ids(prompt_version=stable_id("another")) == set()


class TestFailures:
    FAILURE = records.Failure(video(0), segment(0), "file:///videos/0.mp4", "decode", "truncated", "it's cut")

    def test_a_failure_counts_up_and_is_forgotten(self, archive):
        archive.record_failures([self.FAILURE])
        (first,) = archive.failures().to_pylist()
        assert (first["attempts"], first["first_seen"]) == (1, first["last_seen"])
        again = dataclasses.replace(self.FAILURE, message="it's still cut")
        archive.record_failures([again, dataclasses.replace(self.FAILURE, segment_id=None)])
        rows_ = {row["segment_id"]: row for row in archive.failures().to_pylist()}
        assert rows_[segment(0)]["attempts"] == 2
        assert rows_[segment(0)]["message"] == "it's still cut"
        assert rows_[segment(0)]["first_seen"] == first["first_seen"] < rows_[segment(0)]["last_seen"]
        assert rows_[None]["attempts"] == 1
        whole, part = (ids.failure_id(video(0), key, "decode") for key in (None, segment(0)))
        assert archive.clear_failures([part, stable_id("unknown")]) == 1
        assert archive.clear_failures([whole]) == 1
        assert archive.failures().num_rows == 0

    def test_failures_of_segments_that_are_no_more_are_forgotten(self, archive):
        kept, gone = (dataclasses.replace(self.FAILURE, segment_id=segment(n)) for n in (0, 1))
        whole = dataclasses.replace(self.FAILURE, segment_id=None)
        other = dataclasses.replace(gone, video_id=video(1))
        archive.record_failures([kept, gone, whole, other])
        assert archive.clear_stale_failures({video(0): [segment(0)], video(2): []}) == 1
        left = {(row["video_id"], row["segment_id"]) for row in archive.failures().to_pylist()}
        assert left == {(video(0), segment(0)), (video(0), None), (video(1), segment(1))}
