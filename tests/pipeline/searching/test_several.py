"""Several archives are searched as if all their rows were in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import lance
import numpy as np
import pytest
from support.split_rows import Library, divided

from malmm.pipeline.archive import vector_index
from malmm.pipeline.archive.joined import members_of, open_archives
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.searcher import Searcher
from malmm.pipeline.searching.several import candidates_of

LIBRARY = Library()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """All rows in one archive."""
    return Searcher(LIBRARY.put(str(tmp_path_factory.mktemp("whole") / "all"), range(LIBRARY.videos)))


def ranked(searcher: Searcher, words: str, vector: np.ndarray, **options: object) -> list[Moment]:
    return searcher.ranked(SearchQuery(text=words, **options), vector)  # type: ignore[arg-type]


def same(found: Sequence[Moment], expected: Sequence[Moment]) -> None:
    """Equal but for the last digits of cosines, which depend on how many vectors are compared at a time."""
    assert [(m.video_id, m.start_s, m.end_s, m.signals, m.text) for m in found] == [
        (m.video_id, m.start_s, m.end_s, m.signals, m.text) for m in expected
    ]
    assert [m.score for m in found] == pytest.approx([m.score for m in expected])
    assert [m.similarity or 0.0 for m in found] == pytest.approx(
        [m.similarity or 0.0 for m in expected], abs=1e-6
    )


@pytest.mark.parametrize("archives", [1, 2, 5])
def test_however_rows_are_divided_the_ranking_is_that_of_one_archive(
    whole: Searcher, tmp_path: Path, archives: int
) -> None:
    places = [
        LIBRARY.put(str(tmp_path / str(number)), videos)
        for number, videos in enumerate(divided(LIBRARY.videos, archives, seed=archives))
    ]
    searcher = Searcher(open_archives([*places, places[0]]))
    some = tuple(sorted(LIBRARY.tables["videos"]["video_id"].to_pylist())[:5])
    for words, vector in LIBRARY.queries(5):
        for options in ({}, {"exact": True}, {"video_ids": some}, {"signals": ("text",)}, {"k": 1}):
            same(ranked(searcher, words, vector, **options), ranked(whole, words, vector, **options))
    found = searcher.shown(ranked(searcher, "red dogs", LIBRARY.queries(1)[0][1])[:5])
    addresses = {row["video_id"]: row["uri"] for row in LIBRARY.tables["videos"].to_pylist()}
    assert [each.uri for each in found] == [addresses[each.video_id] for each in found]
    assert all(each.thumbnail for each in found)


def test_for_a_share_of_the_nearest_fewer_partitions_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where one archive has them all, as many as if it were alone."""
    places = [LIBRARY.put(str(tmp_path / str(part)), range(part, LIBRARY.videos, 4)) for part in range(4)]
    slots = candidates_of(open_archives(places)).slots
    looks: list[str] = []

    def noting(name: str) -> Callable[[lance.LanceDataset], int | None]:
        def of(dataset: lance.LanceDataset) -> int | None:
            looks.append(name)
            return None

        return of

    for name in ("probes_of", "probes_for_a_share_of"):
        monkeypatch.setattr(vector_index, name, noting(name))
    vector = LIBRARY.queries(1)[0][1]
    # The first video of each fourth, all in one archive.
    one = LIBRARY.tables["videos"]["video_id"].to_pylist()[0::4]
    assert len(slots(vector, 40, Scope.of_videos(one))) == 40
    assert looks == ["probes_for_a_share_of", "probes_of"]
    # Ten are few enough to be asked of each archive. One of them knows by now.
    assert len(slots(vector, 10, Scope())) == 10
    assert looks[2:] == ["probes_of"] * 3


def test_a_video_in_two_archives_counts_once(whole: Searcher, tmp_path: Path) -> None:
    first = LIBRARY.put(str(tmp_path / "first"), range(8))
    second = LIBRARY.put(str(tmp_path / "second"), range(4, LIBRARY.videos))
    searcher = Searcher(open_archives([first, second]))
    for words, vector in LIBRARY.queries(3):
        for options in ({}, {"exact": True}, {"k": 1}):
            same(ranked(searcher, words, vector, **options), ranked(whole, words, vector, **options))
    assert searcher.archive.count("videos") == LIBRARY.videos
    assert searcher.archive.slots.slot_count() == LIBRARY.tables["memories"].num_rows
    assert searcher.archive.annotations().num_rows == LIBRARY.tables["annotations"].num_rows
    named = searcher.archive.names_of(LIBRARY.tables["videos"]["video_id"].to_pylist())
    assert list(named.values()).count("first") == 8
    assert list(named.values()).count("second") == LIBRARY.videos - 8


def test_what_cannot_be_searched_with_the_others_is_named_and_left_out(tmp_path: Path) -> None:
    first = LIBRARY.put(str(tmp_path / "first"), range(3))
    other = LIBRARY.with_recipe(retrieval_fingerprint="cccc").put(str(tmp_path / "other"), range(3, 6))
    second = LIBRARY.put(str(tmp_path / "second"), range(6, 9))
    gone = str(tmp_path / "gone")
    searcher = Searcher([first, gone, other, second])
    members = members_of(searcher.archive)
    assert members is not None
    assert [(each.name, "no archive" in each.reason) for each in members.left_out] == [
        ("gone", True),
        ("other", False),
    ]
    assert "another retrieval model than first" in members.left_out[1].reason
    same_without = Searcher([first, second])
    for words, vector in LIBRARY.queries(3):
        same(ranked(searcher, words, vector), ranked(same_without, words, vector))


def test_an_archive_that_goes_away_is_left_out_until_it_is_back(tmp_path: Path) -> None:
    first = LIBRARY.put(str(tmp_path / "first"), range(3))
    second = Path(LIBRARY.put(str(tmp_path / "second"), range(3, 6)))
    searcher = Searcher([first, str(second)])
    members = members_of(searcher.archive)
    assert members is not None
    words, vector = LIBRARY.queries(1)[0]
    before = ranked(searcher, words, vector)
    away = second.rename(tmp_path / "away")
    left = ranked(searcher, words, vector)
    assert [each.name for each in members.left_out] == ["second"]
    same(left, ranked(Searcher(first), words, vector))
    away.rename(second)
    assert members.opened_again("second")
    same(ranked(searcher, words, vector), before)
    assert members.left_out == ()


def test_without_any_archive_that_can_be_read_it_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ArchiveError, match=r"none of the archives can be read: b: there is no archive at .*; c: "
    ):
        open_archives([str(tmp_path / "b"), str(tmp_path / "c")])
