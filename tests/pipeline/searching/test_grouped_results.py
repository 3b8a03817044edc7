"""Facets, groups by video, and explanations of what a search found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from support.archive_rows import video
from support.filtered_archive import METADATA, Filtered, make_filtered

from malmm.pipeline.archive.filters import scope_of
from malmm.pipeline.searching import facets
from malmm.pipeline.searching.explanation import explain
from malmm.pipeline.searching.facets import facets_of
from malmm.pipeline.searching.fusion import Moment, Slot
from malmm.pipeline.searching.groups import best_videos
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.searching.searcher import Searcher


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Filtered:
    return make_filtered(str(tmp_path_factory.mktemp("grouped") / "archive"))


@pytest.fixture(scope="module")
def moments(filtered: Filtered) -> list[Moment]:
    query = np.eye(1, filtered.vectors.shape[2], dtype=np.float32)[0]
    return Searcher(filtered.archive).ranked(SearchQuery(text="red square", k=100), query)


def test_each_value_of_a_facet_comes_with_the_filter_that_leaves_what_it_counts(
    filtered: Filtered, moments: list[Moment]
) -> None:
    found = {facet.name: facet for facet in facets_of(filtered.archive, moments)}
    assert list(found) == [
        "video",
        "day.recorded",
        "camera",
        "outdoors",
        "the crew's",
        "label.weather",
    ]
    for facet in found.values():
        for value in facet.values:
            within = scope_of(filtered.archive, value.where)
            assert value.count == sum(
                moment.slot is not None and within.holds(vars(moment.slot)) for moment in moments
            )
    cameras = Counter(
        METADATA[number].get("camera") for number in range(4) for m in moments if m.video_id == video(number)
    )
    assert {value.value: value.count for value in found["camera"].values} == {
        name: count for name, count in cameras.items() if name
    }
    assert [value.value for value in found["day.recorded"].values] == ["2026-02-01", "2026-01-01"]


def test_rare_values_are_counted_together(
    filtered: Filtered, moments: list[Moment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "_MOST_VALUES", 1)
    facet = facets_of(filtered.archive, moments)[0]
    assert len(facet.values) == 1
    assert facet.values[0].count + facet.others == len(moments)
    assert facets_of(filtered.archive, []) == []


def moment(number: int, score: float, **more: object) -> Moment:
    return Moment(video(number), score, score + 1, score, ("vectors",), **more)  # type: ignore[arg-type]


def test_videos_are_as_good_as_their_best_moment() -> None:
    asked: list[int] = []

    def search(k: int) -> Sequence[Moment]:
        asked.append(k)
        there = [
            moment(0, 9.0),
            moment(1, 8.0),
            moment(0, 7.0),
            moment(0, 6.0),
            *([moment(2, 5.0)] if k > 10 else []),
        ]
        return there[:k]

    two = best_videos(search, 2, each=2)
    assert [(each.video_id, [m.score for m in each.moments], each.found) for each in two] == [
        (video(0), [9.0, 7.0], 3),
        (video(1), [8.0], 1),
    ]
    assert asked == [10]
    # A third video is found deeper down; for a fourth the search ends when no more comes.
    assert [each.video_id for each in best_videos(search, 3)] == [video(0), video(1), video(2)]
    assert len(best_videos(search, 4)) == 3
    assert best_videos(lambda k: [], 3) == []


def test_what_signals_gave_adds_up_to_the_score(moments: list[Moment]) -> None:
    assert {signal for each in moments for signal in each.signals} == {"vectors", "text"}
    for each in moments:
        said = explain(each, 0.5)
        assert said.vector_score + said.word_score == pytest.approx(said.score)
        assert (said.vector_rank is not None, said.word_rank is not None) == (
            "vectors" in each.signals,
            "text" in each.signals,
        )
        assert said.is_relevant is (None if each.similarity is None else each.similarity >= 0.5)


@pytest.mark.parametrize(
    ("found", "threshold", "said"),
    [
        (moment(0, 0.5, text_rank=1), None, "place 2 by words: 0.00806 = 0.50000"),
        (
            moment(0, 0.5, slot=Slot(video(0), "s", 0, 0.0, 1.0, 0.5, similarity=0.4), vector_rank=0),
            0.5,
            "similarity 0.400 (not relevant: from 0.500 on), place 1 by vectors: 0.01639 = 0.50000",
        ),
    ],
)
def test_an_explanation_is_a_line(found: Moment, threshold: float | None, said: str) -> None:
    assert str(explain(found, threshold)) == said
