"""How tables come to be: of several writers at the same moment one creates it, and none undoes what another did."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import lance
import pyarrow as pa
import pytest

from malmm.pipeline.archive.location import STORAGE_VERSION, create_dataset, ensure_dataset, open_dataset
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.tables import table_schemas

WRITERS = 4
ROUNDS = 12
SCHEMA = pa.schema([pa.field("writer", pa.int64()), pa.field("round", pa.int64())])


def rows(number: int, turn: int) -> pa.Table:
    return pa.Table.from_pylist([{"writer": number, "round": turn}], schema=SCHEMA)


def at_once(work: Callable[[int], bool]) -> list[int]:
    """The writers whose ``work`` returned True; all began it at the same moment."""
    together = Barrier(WRITERS)

    def one(number: int) -> bool:
        together.wait()
        return work(number)

    with ThreadPoolExecutor(WRITERS) as writers:
        return [number for number, done in enumerate(writers.map(one, range(WRITERS))) if done]


@pytest.mark.parametrize("empty", [True, False])
def test_one_of_several_creates_a_table(tmp_path: Path, empty: bool) -> None:
    for turn in range(ROUNDS):

        def create(number: int, turn: int = turn) -> bool:
            try:
                create_dataset(
                    str(tmp_path), f"table{turn}", SCHEMA.empty_table() if empty else rows(number, turn)
                )
            except ArchiveError:
                return False
            return True

        made = at_once(create)
        assert len(made) == 1
        found = open_dataset(str(tmp_path), f"table{turn}")
        assert found is not None
        assert found.to_table().column("writer").to_pylist() == ([] if empty else made)


def test_what_is_written_at_once_into_a_table_that_was_not_there_is_all_kept(tmp_path: Path) -> None:
    for turn in range(ROUNDS):

        def write(number: int, turn: int = turn) -> bool:
            dataset = ensure_dataset(str(tmp_path), f"table{turn}", SCHEMA.empty_table())
            lance.write_dataset(rows(number, turn), dataset, mode="append")
            return True

        at_once(write)
        found = open_dataset(str(tmp_path), f"table{turn}")
        assert found is not None
        assert sorted(found.to_table().column("writer").to_pylist()) == list(range(WRITERS))


@pytest.mark.parametrize("name", sorted(table_schemas(8, 1)))
def test_a_table_without_rows_is_as_it_was_declared(tmp_path: Path, name: str) -> None:
    schema = table_schemas(8, 1)[name]
    made = create_dataset(str(tmp_path), name, schema.empty_table())
    assert made.schema.equals(schema, check_metadata=True)
    assert made.data_storage_version == STORAGE_VERSION
    assert made.count_rows() == 0
    assert made.to_table(columns=[schema.names[0]]).num_rows == 0


def test_a_table_whose_creation_was_killed_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = lance.LanceDataset.commit
    done: list[bool] = []

    def killed_after_one(*args: Any, **named: Any) -> lance.LanceDataset:
        if done:
            raise KeyboardInterrupt
        done.append(True)
        return commit(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(lance.LanceDataset, "commit", killed_after_one)
        with pytest.raises(KeyboardInterrupt):
            create_dataset(str(tmp_path), "table", SCHEMA.empty_table())
    dataset = ensure_dataset(str(tmp_path), "table", SCHEMA.empty_table())
    merge = dataset.merge_insert("writer").when_matched_update_all().when_not_matched_insert_all()
    merge.execute(rows(1, 1))
    found = open_dataset(str(tmp_path), "table")
    assert found is not None
    assert found.to_table().column("writer").to_pylist() == [1]


@pytest.mark.parametrize("place", ["empty", "nowhere", "file", "file/below"])
def test_where_there_is_no_table_there_is_none_to_open(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert open_dataset(str(tmp_path / place), "segments") is None
