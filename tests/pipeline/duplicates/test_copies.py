"""Copies in archives: read from the store, grouped, reported, and listed to be left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.archive_rows import RECIPE
from support.planted_films import FRAME_S, SIZE, SLOT_S, Slot, archive_of, film, sampled

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.duplicates import slot_vectors
from malmm.pipeline.duplicates.copies import Copies, find_copies
from malmm.pipeline.duplicates.runs import Limits
from malmm.pipeline.duplicates.slot_vectors import averaged, read_slots
from malmm.pipeline.schema.errors import ArchiveError, ConfigError

SHOWN = film(1, 300)
CUT = SHOWN[int(80 / FRAME_S) : int(200 / FRAME_S)]


def films() -> dict[str, list[Slot]]:
    return {
        "/videos/a-cut.mp4": sampled(CUT, seed=1, noise=0.2),
        "/videos/original.mp4": sampled(SHOWN, seed=2),
        "/videos/sped-up.mp4": sampled(SHOWN, 1.05, seed=3, noise=0.2),
        "/videos/other.mp4": sampled(film(2, 300), seed=4),
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return archive_of(tmp_path_factory.mktemp("films") / "archive", films())


@pytest.fixture(scope="module")
def found(archive: Archive) -> Copies:
    return find_copies([archive])


def names(found: Copies, keep: str) -> dict[str, tuple[bool, str]]:
    """What is left out: file name to whether it is whole, and what it is a copy of."""
    return {
        Path(found.videos[each.video].uri).name: (each.whole, Path(found.videos[each.copy_of[0]].uri).name)
        for each in found.left_out(keep)
    }


def test_copies_are_one_group_with_their_spans(found: Copies) -> None:
    [(members, runs)] = found.groups()
    spans = {Path(found.videos[m.video].uri).name: (m.start_s, m.end_s) for m in members}
    assert spans.keys() == {"a-cut.mp4", "original.mp4", "sped-up.mp4"}
    assert spans["a-cut.mp4"] == pytest.approx((0, 120), abs=SLOT_S)
    assert spans["sped-up.mp4"] == pytest.approx((0, 300 / 1.05), abs=SLOT_S)
    assert len(runs) == 3
    assert found.repeats == []


def test_the_first_or_the_longest_is_kept(found: Copies) -> None:
    assert names(found, "first")["sped-up.mp4"] == (True, "a-cut.mp4")
    assert names(found, "first")["original.mp4"][0] is False
    assert names(found, "longest") == {
        "a-cut.mp4": (True, "original.mp4"),
        "sped-up.mp4": (True, "original.mp4"),
    }
    with pytest.raises(ConfigError, match="--keep 'best': one of first, longest"):
        found.left_out("best")


def test_the_table_has_a_row_for_each_passage(found: Copies) -> None:
    rows = found.table().to_pylist()
    assert [row["kind"] for row in rows] == ["copy"] * 3
    assert {row["group"] for row in rows} == {1}


def test_a_slot_of_several_spans_counts_for_each(tmp_path: Path) -> None:
    made = archive_of(tmp_path / "archive", {"/videos/a.mp4": sampled(film(1, 20), seed=1)})
    spans = [
        {"start_s": 0.0, "end_s": 5.0, "frame_count": 5},
        {"start_s": 15.0, "end_s": 20.0, "frame_count": 5},
    ]
    dataset = made.tables.dataset("memories")
    rows = dataset.to_table(filter="slot = 0").to_pylist()
    schema = dataset.schema
    dataset.delete("slot = 0")
    changed = pa.Table.from_pylist([rows[0] | {"spans": spans, "tokens": b"", "end_s": 20.0}], schema=schema)
    dataset.insert(changed)
    slots, _ = read_slots([made])
    assert sorted(zip(slots.start_s.tolist(), slots.end_s.tolist(), strict=True)) == [
        (0, 5),
        (5, 10),
        (10, 15),
        (15, 20),
        (15, 20),
    ]


def test_vectors_are_averaged() -> None:
    lists = pa.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0]]], pa.list_(pa.list_(pa.float16(), 2)))
    assert averaged(lists) == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]), abs=1e-3)


def test_long_vectors_are_turned_to_where_they_differ_most(
    monkeypatch: pytest.MonkeyPatch, archive: Archive
) -> None:
    whole, _ = read_slots([archive])
    monkeypatch.setattr(slot_vectors, "_MOST_NUMBERS", SIZE - 4)
    turned, _ = read_slots([archive])
    assert turned.vectors.shape == (len(whole), SIZE - 4)
    similar = [
        np.asarray(each.vectors, np.float32) @ np.asarray(each.vectors, np.float32).T
        for each in (whole, turned)
    ]
    assert np.corrcoef(similar[0].ravel(), similar[1].ravel())[0, 1] > 0.95


def test_the_same_video_in_two_archives_counts_once(archive: Archive, tmp_path: Path) -> None:
    more = {"/videos/original.mp4": films()["/videos/original.mp4"], "/more/b.mp4": sampled(CUT, seed=9)}
    both = find_copies([archive, archive_of(tmp_path / "more", more)])
    assert len(both.videos) == 5
    [(members, _)] = both.groups()
    assert {both.videos[m.video].uri for m in members} == {*films(), "/more/b.mp4"} - {"/videos/other.mp4"}
    assert {both.videos[m.video].archive for m in members} == {archive.root, str(tmp_path / "more")}


def test_an_archive_without_vectors_is_refused(tmp_path: Path) -> None:
    none = replace(RECIPE, retrieval_model="none")
    made = archive_of(tmp_path / "archive", {"/videos/a.mp4": sampled(SHOWN)}, recipe=none, vectors=0)
    with pytest.raises(ArchiveError, match=r"has no retrieval vectors .*malmm reembed"):
        find_copies([made])


def test_an_empty_archive_is_refused(tmp_path: Path) -> None:
    made = Archive.create_or_open(str(tmp_path / "archive"), RECIPE, SIZE)
    with pytest.raises(ArchiveError, match="has no finished video with retrieval vectors"):
        find_copies([made])


def test_archives_of_two_retrieval_models_are_refused(archive: Archive, tmp_path: Path) -> None:
    other = replace(RECIPE, retrieval_model="siglip", retrieval_fingerprint="cccc")
    made = archive_of(tmp_path / "archive", {"/videos/a.mp4": sampled(SHOWN)}, recipe=other)
    with pytest.raises(
        ArchiveError, match=r"has vectors of siglip and .* those of debug, which cannot be compared"
    ):
        find_copies([archive, ArchiveReader.open(made.root)])


def test_a_cut_too_unlike_another_copy_is_found_by_what_both_are_of(tmp_path: Path) -> None:
    faint = {
        "/videos/cut.mp4": sampled(SHOWN[int(80 / FRAME_S) : int(140 / FRAME_S)], seed=1, noise=0.8),
        "/videos/original.mp4": sampled(SHOWN, seed=2),
        "/videos/faster.mp4": sampled(SHOWN, 1.05, seed=3, noise=0.8),
        "/videos/other.mp4": sampled(film(2, 300), seed=4),
    }
    archive = archive_of(tmp_path / "archive", faint)
    [group] = find_copies([archive]).to_dict()["groups"]
    runs = {
        tuple(sorted(Path(run[side]["uri"]).stem for side in ("first", "second"))): run
        for run in group["runs"]
    }
    assert runs.keys() == {("cut", "original"), ("faster", "original"), ("cut", "faster")}
    assert [key for key, run in runs.items() if run["via"]] == [("cut", "faster")]
    found = runs["cut", "faster"]
    assert Path(found["via"]["uri"]).stem == "original"
    cut, faster = (
        (side["start_s"], side["end_s"])
        for side in sorted((found["first"], found["second"]), key=lambda side: side["uri"])
    )
    assert faster == pytest.approx(tuple((80 + second) / 1.05 for second in cut), abs=SLOT_S)
    # Where the two are compared more strictly, only what was seen itself is left.
    strict = find_copies([archive], Limits(implied=0.65))
    assert len(strict.runs) == 2
