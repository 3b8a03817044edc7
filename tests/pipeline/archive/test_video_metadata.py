"""Metadata of manifests as typed columns."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa
import pytest
from support.archive_rows import video, video_table

from malmm.pipeline.archive import video_metadata
from malmm.pipeline.archive.location import table_uri
from malmm.pipeline.archive.metadata_types import Kinds, converted, kind_of
from malmm.pipeline.archive.migration import migrate
from malmm.pipeline.archive.video_metadata import has_untyped_metadata, metadata_columns
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveBusy
from malmm.pipeline.schema.tables import VIDEOS

DAY = datetime(2026, 1, 2, tzinfo=UTC)


def rows_of(*said: dict[str, Any] | None, first: int = 0) -> pa.Table:
    rows = [
        video_table(number).to_pylist()[0] | {"metadata": json.dumps(each) if each else ""}
        for number, each in enumerate(said, first)
    ]
    return pa.Table.from_pylist(rows, schema=VIDEOS)


def kinds(archive: Archive) -> dict[str, str]:
    return {key: each.kind for key, each in metadata_columns(archive.schema("videos")).items()}


def stored(archive: Archive, key: str) -> list[Any]:
    column = metadata_columns(archive.schema("videos"))[key].column
    rows = archive.tables.rows("videos", columns=["video_id", column]).to_pylist()
    by_id = {row["video_id"]: row[column] for row in rows}
    return [by_id[video(number)] for number in range(len(rows))]


@pytest.mark.parametrize(
    ("value", "kind", "typed"),
    [
        (True, "bool", True),
        ("FALSE", "bool", False),
        (3, "int", 3),
        ("-3", "int", -3),
        ("007", "string", "007"),
        (2**63, "string", str(2**63)),
        (1.5, "double", 1.5),
        ("1e3", "double", 1000.0),
        ("nan", "double", None),
        ("inf", "double", float("inf")),
        ("2026-01-02", "timestamp", DAY),
        ("2026-01-02 00:00:00", "timestamp", DAY),
        ("2026-01-02T01:00:00+01:00", "timestamp", DAY),
        ("2026-13-02", "string", "2026-13-02"),
        ("1.2.3", "string", "1.2.3"),
        ("+49 30 1234", "string", "+49 30 1234"),
        (["a", 1], "string", '["a", 1]'),
        ({"b": None}, "string", '{"b": null}'),
    ],
)
def test_a_value_has_the_type_that_it_reads_as(value: object, kind: str, typed: object) -> None:
    assert kind_of(value) == kind
    assert converted([value, None], kind).to_pylist() == [typed, None]


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([1, 2.5], "double", ""),
        ([1, "2"], "int", ""),
        ([True, "false"], "bool", ""),
        ([1, "north"], "string", "1 is a number, north is text"),
        (["2026-01-02", True], "string", "true is true or false, 2026-01-02 is a time"),
        (["a", "b"], "string", ""),
    ],
)
def test_values_of_different_types_widen_and_say_so(values: list[object], kind: str, said: str) -> None:
    found = Kinds()
    for value in values:
        found.add(value)
    assert found.joined == kind
    assert said in found.note if said else found.note == ""


def test_columns_follow_what_manifests_say(archive: Archive) -> None:
    archive.put_videos(rows_of(None))
    assert kinds(archive) == {}
    archive.put_videos(rows_of({"camera": "north", "take": "1", "Ort": True}, first=1))
    assert kinds(archive) == {"camera": "string", "take": "int", "Ort": "bool"}
    archive.put_videos(rows_of({"take": 1.5, "recorded": "2026-01-02"}, first=2))
    assert kinds(archive) == {"camera": "string", "take": "double", "Ort": "bool", "recorded": "timestamp"}
    assert stored(archive, "take") == [None, 1.0, 1.5]
    assert stored(archive, "recorded") == [None, None, DAY]
    # A run takes over what a manifest says now, without anything else of the video.
    archive.set_metadata({video(1): json.dumps({"take": "first", "camera": 7})})
    assert kinds(archive)["take"] == "string"
    assert "first is text" in metadata_columns(archive.schema("videos"))["take"].note
    assert stored(archive, "take") == [None, "first", "1.5"]
    assert stored(archive, "camera") == [None, "7", None]
    assert stored(archive, "Ort") == [None, None, None]
    assert not has_untyped_metadata(archive.tables.dataset("videos"))


@pytest.mark.parametrize("key", ['it\'s; DROP "x"', "a b", "ä", "", "a.b", "1", "x" * 300, "metadata"])
def test_any_key_gets_a_column_of_plain_letters(archive: Archive, key: str) -> None:
    archive.put_videos(rows_of({key: 1, f"{key}!": 2}))
    columns = metadata_columns(archive.schema("videos"))
    assert set(columns) == {key, f"{key}!"}
    assert len({each.column for each in columns.values()}) == 2
    assert all(each.column.replace("_", "a").isalnum() and each.column.isascii() for each in columns.values())
    assert stored(archive, key) == [1]


def test_very_many_keys_stay_in_the_json(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_metadata, "MOST_COLUMNS", 2)
    archive.put_videos(rows_of({f"key{number}": number for number in range(5)}))
    assert len(kinds(archive)) == 2
    assert len(json.loads(archive.videos()["metadata"][0].as_py())) == 5


def of_an_earlier_release(archive: Archive, rows: pa.Table) -> None:
    """Write rows as a release does that has no columns of metadata."""
    target = lance.dataset(table_uri(archive.uri, "videos"))
    target.merge_insert("video_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def test_optimize_types_what_earlier_releases_wrote(archive: Archive) -> None:
    of_an_earlier_release(archive, rows_of({"camera": "north"}, {"camera": "south", "take": 1}))
    assert has_untyped_metadata(archive.tables.dataset("videos"))
    with archive.held():
        assert migrate(archive.changes) == ["videos.meta_camera", "videos.meta_take"]
        assert migrate(archive.changes) == []
    assert stored(archive, "camera") == ["north", "south"]
    of_an_earlier_release(archive, rows_of({"camera": "west"}, None, {"take": 2}))
    with archive.held():
        assert migrate(archive.changes) == ["videos.meta_camera", "videos.meta_take"]
    assert stored(archive, "camera") == ["west", None, None]
    assert stored(archive, "take") == [None, None, 2]
    # A type is chosen anew once what stood against it is gone, and a key that nobody has goes.
    archive.set_metadata({video(0): '{"take": "x"}'})
    assert kinds(archive) == {"camera": "string", "take": "string"}
    archive.set_metadata({video(0): '{"take": 5}'})
    with archive.held():
        assert migrate(archive.changes) == ["videos.meta_camera", "videos.meta_take"]
    assert kinds(archive) == {"take": "int"}


def test_the_first_typed_row_types_those_before(archive: Archive) -> None:
    of_an_earlier_release(archive, rows_of({"camera": "north"}))
    archive.put_videos(rows_of({"take": 1}, first=1))
    assert stored(archive, "camera") == ["north", None]


def test_a_change_that_was_killed_is_made_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after any of its commits, a row is neither lost nor typed wrongly."""
    archive.put_videos(rows_of({"take": 1}))
    for killed_at in ("add_columns", "alter_columns", "drop_columns"):
        real = getattr(lance.LanceDataset, killed_at)

        def dies(self: lance.LanceDataset, *what: Any, real: Any = real, **more: Any) -> None:
            real(self, *what, **more)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(lance.LanceDataset, killed_at, dies)
            with pytest.raises(KeyboardInterrupt):
                archive.put_videos(rows_of({"take": f"after {killed_at}"}))
        assert stored(archive, "take") in ([1], ["1"])
        archive.put_videos(rows_of({"take": f"after {killed_at}"}))
        assert stored(archive, "take") == [f"after {killed_at}"]
        assert [name for name in archive.schema("videos").names if "take" in name] == ["meta_take"]
        archive.set_metadata({video(0): '{"take": 1}'})
        with archive.held():
            migrate(archive.changes)
        assert kinds(archive) == {"take": "int"}


def test_a_writer_that_lost_its_lease_changes_no_column(archive: Archive) -> None:
    with archive.held():
        assert archive.changes.lease is not None
        target = lance.dataset(table_uri(archive.uri, "videos"))
        target.update_config({"malmm.fencing_token": str(archive.changes.lease.token + 1)})
        with pytest.raises(ArchiveBusy):
            archive.put_videos(rows_of({"take": 1}))
    assert kinds(archive) == {}
