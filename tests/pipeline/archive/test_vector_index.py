"""The index of vectors: a few parts that fit their rows, by which as much is found however the archive grew."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lancedb.index import IvfPq
from support.growing_archive import Growing
from support.processes import run_here

from malmm.pipeline.archive import search_indexes, vector_index
from malmm.pipeline.archive.index_states import IndexState, index_states, index_warnings
from malmm.pipeline.archive.location import open_dataset
from malmm.pipeline.archive.optimize import optimize
from malmm.pipeline.archive.vector_index import (
    GROWTH,
    KIND,
    Part,
    build_piece,
    partitions_for,
    plan,
    probes_for_a_share_of,
    probes_of,
)
from malmm.pipeline.schema.config import OptimizeConfig

FEW = 300


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many partitions, of which a part is looked at, as large archives have."""
    monkeypatch.setattr(search_indexes, "EXACT_ROWS", FEW)
    monkeypatch.setattr(vector_index, "_VECTORS_A_PARTITION", 64)
    monkeypatch.setattr(vector_index, "PROBES", 40)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=60), st.booleans())
def test_parts_stay_few_and_no_row_is_indexed_often(added: list[int], at_once: bool) -> None:
    rows: dict[int, int] = {}
    parts: list[Part] = []
    worked = 0
    for fragment, count in enumerate(added):
        rows[fragment] = count
        planned = plan(parts, rows, exact_rows=FEW, at_once=at_once)
        covered = set().union(*(part.fragments for part in parts)) if parts else set()
        waiting = sum(count for fragment, count in rows.items() if fragment not in covered)
        if planned is None:
            total = sum(rows.values())
            assert waiting < (FEW if not parts else 1 if at_once else max(256, 0.01 * total + 1))
            continue
        worked += planned.rows
        assert planned.rows == sum(rows[fragment] for fragment in planned.fragments)
        parts = [part for part in parts if part.uuid not in planned.replaced]
        parts.append(Part(str(fragment), frozenset(planned.fragments), planned.rows))
        assert set().union(*(part.fragments for part in parts)) == rows.keys()
        assert sum(len(part.fragments) for part in parts) == len(rows)
        by_size = sorted(parts, key=lambda part: part.rows)
        for smaller, larger in itertools.pairwise(by_size):
            assert larger.rows >= GROWTH * smaller.rows, [each.rows for each in by_size]
    total = sum(rows.values())
    assert len(parts) <= 2 + total.bit_length() / 2
    # Each row is indexed anew only as its part grows by a quarter at least, so a number of times like a logarithm.
    assert worked <= total * (1 + (GROWTH + 1) * total.bit_length())


@pytest.mark.parametrize(
    ("parts", "rows", "options", "fragments", "replaced"),
    [
        ([], {0: 299}, {}, None, ()),
        ([], {0: 200, 1: 100}, {}, (0, 1), ()),
        ([("a", [0], 9000)], {0: 9000, 1: 100}, {}, None, ()),
        ([("a", [0], 9000)], {0: 9000, 1: 100}, {"at_once": True}, (1,), ()),
        ([("a", [0], 9000)], {0: 9000, 1: 300}, {}, (1,), ()),
        ([("a", [0], 99_000)], {0: 99_000, 1: 300}, {}, None, ()),
        ([("a", [0], 9000), ("b", [1], 800)], {0: 9000, 1: 800, 2: 300}, {}, (1, 2), ("b",)),
        ([("a", [0], 4000), ("b", [1], 800)], {0: 4000, 1: 800, 2: 300}, {}, (0, 1, 2), ("b", "a")),
        ([("a", [0], 400)], {0: 400}, {"is_right_kind": False}, (0,), ("a",)),
        # Of a part whose files are gone nothing is left to cover.
        ([("a", [0, 7], 400)], {0: 400, 1: 300}, {}, (0, 1), ("a",)),
    ],
)
def test_what_is_built_next(
    parts: Sequence[tuple[str, list[int], int]],
    rows: dict[int, int],
    options: dict[str, Any],
    fragments: tuple[int, ...] | None,
    replaced: tuple[str, ...],
) -> None:
    given_parts = [Part(uuid, frozenset(covered), count) for uuid, covered, count in parts]
    planned = plan(given_parts, rows, exact_rows=FEW, **options)
    assert (planned and planned.fragments) == fragments
    assert planned is None or planned.replaced == replaced


@pytest.mark.parametrize("seed", [1, 2])
def test_as_much_is_found_however_an_archive_grew(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    growing = Growing(str(tmp_path / "archive"), seed=seed)
    growing.add(FEW)
    growing.archive.update_indexes()
    left = [0]
    for step in range(1, 7):
        growing.add(chance.choice([30, 150, 400, 700]))
        left.append(step)
        if chance.random() < 0.4:
            growing.delete(left.pop(chance.randrange(len(left))))
        if chance.random() < 0.4:
            growing.archive.compact(at_least=2)
        growing.archive.update_indexes(at_once=chance.random() < 0.5)
        assert min(growing.recall()) >= 0.95, step
    [state] = vector_states(growing)
    assert state.kind == KIND
    assert len(state.partitions) <= 4


def vector_states(growing: Growing) -> list[IndexState]:
    return [state for state in index_states(growing.archive.tables) if state.column == "vectors"]


def test_an_index_of_0_1_is_warned_of_and_replaced_by_optimize(tmp_path: Path) -> None:
    place = str(tmp_path / "archive")
    growing = Growing(place, seed=4)
    growing.add(FEW)
    [warning] = index_warnings(growing.archive.tables, index_states(growing.archive.tables))
    assert (
        warning
        == f"{FEW} memory slots have no index, so each search compares all of them: run `malmm optimize`"
    )
    old = IvfPq(distance_type="cosine", num_partitions=2, num_sub_vectors=2, max_iterations=2)
    growing.archive.table("memories").create_index("vectors", config=old, name="vectors_idx")
    growing.add(100)
    [warning] = index_warnings(growing.archive.tables, index_states(growing.archive.tables))
    assert "IVF_PQ" in warning
    assert warning.endswith("run `malmm optimize`")
    assert (
        "Warning   the index of memories.vectors is of the kind IVF_PQ"
        in run_here("status", "--archive", place).stdout
    )

    report = optimize(OptimizeConfig(place))
    [state] = [state for state in report.indexes if state.column == "vectors"]
    assert (state.kind, state.rows, state.rows_unindexed) == (KIND, FEW + 100, 0)
    assert state.partitions == (partitions_for(4 * (FEW + 100)),)
    assert state.trained_at is not None
    assert index_warnings(growing.archive.tables, list(report.indexes)) == []
    assert min(growing.recall()) >= 0.95
    said = run_here("status", "--archive", place).stdout
    assert f"memories.vectors: 400 of 400 rows indexed, {state.partitions[0]} partitions, trained 20" in said
    content = json.loads(run_here("status", "--archive", place, "--json").stdout)
    assert content["warnings"] == []
    [listed] = [index for index in content["indexes"] if index["column"] == "vectors"]
    assert listed == state.to_dict()


def test_what_an_index_does_not_cover_is_warned_of_before_search_is_slow(tmp_path: Path) -> None:
    growing = Growing(str(tmp_path / "archive"), seed=5)
    state = IndexState("memories", "segment_id", "BTree", 100_000, 5000, (), None)
    vectors = IndexState("memories", "vectors", KIND, 100_000, 5000, (158,), None)
    assert index_warnings(growing.archive.tables, [state, vectors]) == []
    behind = dataclasses.replace(vectors, rows_unindexed=5001)
    [warning] = index_warnings(growing.archive.tables, [state, behind])
    assert "memories.vectors does not cover 5001 of 100000 rows" in warning


def test_of_many_partitions_half_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = Growing(str(tmp_path / "archive"), seed=3)
    tables = growing.archive.tables

    def looked_at(probes: Callable[[lance.LanceDataset], int | None] = probes_of) -> int | None:
        return tables.of_version("memories", tables.dataset("memories"), probes)

    growing.add(FEW)
    assert looked_at() is looked_at(probes_for_a_share_of) is None
    monkeypatch.setattr(vector_index, "PROBES", 4)
    monkeypatch.setattr(vector_index, "PROBES_FOR_A_SHARE", 3)
    monkeypatch.setattr(vector_index, "partitions_for", lambda vectors: 13 if vectors > 200 else 5)
    growing.archive.update_indexes()
    growing.add(20)
    growing.archive.update_indexes(at_once=True)
    assert (sorted(vector_states(growing)[0].partitions), looked_at()) == ([5, 13], 7)
    assert looked_at(probes_for_a_share_of) == 6
    monkeypatch.setattr(vector_index, "PROBES", 40)
    monkeypatch.setattr(vector_index, "PROBES_FOR_A_SHARE", 30)
    growing.add(20)
    assert (looked_at(), looked_at(probes_for_a_share_of)) == (40, 30)


def test_very_many_rows_are_indexed_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "MANY_SLOTS", 400)
    growing = Growing(str(tmp_path / "archive"), seed=6)
    for _ in range(4):
        growing.add(100)
    fragments = [each.fragment_id for each in growing.archive.table("memories").to_lance().get_fragments()]
    asked: list[Sequence[Sequence[int]]] = []

    def build(
        uri: str, version: int, groups: Sequence[Sequence[int]], centroids: pa.Array
    ) -> list[lance.dataset.Index]:
        asked.append(groups)
        dataset = open_dataset(uri, "memories")
        assert dataset is not None
        return [build_piece(dataset.checkout_version(version), group, centroids) for group in groups]

    assert "memories.vectors" in growing.archive.update_indexes(build_pieces=build)
    assert asked == [[[fragment] for fragment in fragments]]
    assert len(fragments) == 4
    [state] = vector_states(growing)
    assert (state.rows_unindexed, len(state.partitions)) == (0, 1)
    assert min(growing.recall()) >= 0.95
    growing.add(60)
    growing.archive.update_indexes(at_once=True, build_pieces=build)
    assert len(asked) == 1, "a small part is built at once"
    assert min(growing.recall()) >= 0.95
