"""Archives that are made, opened again, completed and refused."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import lance
import pyarrow as pa
import pytest
from support.archive_rows import (
    RECIPE,
    VECTOR_SIZE,
    commit_rows,
    rows,
    segment,
)

from malmm.pipeline.archive import creation
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import tables
from malmm.pipeline.schema.errors import ArchiveError, RecipeMismatch


class TestCreation:
    def test_tables_have_the_schemas_of_records(self, archive):
        for name, schema in tables.table_schemas(VECTOR_SIZE).items():
            assert archive.schema(name).equals(schema, check_metadata=True), name
        assert archive.recipe == RECIPE
        assert Archive.open(archive.uri).recipe == RECIPE

    def test_opening_again_keeps_the_rows(self, archive):
        commit_rows(archive, 0)
        again = Archive.create_or_open(archive.uri, RECIPE, VECTOR_SIZE)
        assert again.completed_segments() == {segment(0)}

    def test_several_runs_that_begin_at_once_make_one_archive(self, tmp_path):
        for turn in range(4):
            place, together = str(tmp_path / f"archive{turn}"), Barrier(4)

            def begin(number, place=place, together=together):
                together.wait()
                return Archive.create_or_open(place, RECIPE, VECTOR_SIZE).recipe

            with ThreadPoolExecutor(4) as runs:
                assert list(runs.map(begin, range(4))) == [RECIPE] * 4
            archive = Archive.open(place)
            indexed = {
                each.field_names[0] for each in archive.table("annotations").to_lance().describe_indices()
            }
            assert indexed == {"text", "text_grams"}
            with archive.held():
                commit_rows(archive, 0)
            assert archive.completed_segments() == {segment(0)}

    @pytest.mark.parametrize("moment", ["record_first", "change_columns"])
    def test_of_two_models_that_begin_at_once_one_has_the_archive(self, tmp_path, monkeypatch, moment):
        """Another run is let through whole, or up to its error, at one moment of the first one's creation."""
        place, size = str(tmp_path / "archive"), VECTOR_SIZE * 2
        other = dataclasses.replace(RECIPE, model="big", model_fingerprint="cccc")
        # A table of a creation that was killed, so that both have columns to change.
        [memories] = [tables.table_schemas(VECTOR_SIZE * 4)["memories"]]
        lance.write_dataset(memories.empty_table(), f"{place}/memories.lance")
        real = getattr(creation, moment)

        def held(*arguments):
            monkeypatch.setattr(creation, moment, real)
            began.append(Archive.create_or_open(place, other, size))
            return real(*arguments)

        began = []
        monkeypatch.setattr(creation, moment, held)
        with pytest.raises(RecipeMismatch, match="--model big stored, debug asked"):
            Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
        [archive] = began
        assert archive.recipe == Archive.open(place).recipe == other
        wanted = tables.table_schemas(size)["memories"]
        assert Archive.open(place).schema("memories").equals(wanted)
        Archive.create_or_open(place, other, size)

    def test_columns_changed_by_another_model_are_put_back(self, tmp_path, monkeypatch):
        place, real = str(tmp_path / "archive"), creation.record_first

        def recorded(address, recipe):
            found = lance.dataset(f"{address}/memories.lance")
            creation.change_columns(found, tables.table_schemas(VECTOR_SIZE * 2)["memories"], address)
            return real(address, recipe)

        monkeypatch.setattr(creation, "record_first", recorded)
        archive = Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
        with archive.held():
            commit_rows(archive, 0)
        assert archive.completed_segments() == {segment(0)}

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
        commit_rows(archive, 0)
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
            ({"format": tables.FORMAT_OF_NEW_VECTORS + 1}, "a newer version of malmm-ray"),
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
