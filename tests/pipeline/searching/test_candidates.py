"""Candidates of many videos are those that a condition over them finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.drawn_archive import Drawn

from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.searching import candidates
from malmm.pipeline.searching.candidates import Candidates
from malmm.pipeline.searching.searcher import Searcher


@pytest.mark.parametrize("count", [1, 5, 500])
def test_many_videos_are_searched_as_few_are(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    searcher = Searcher(drawn.place)
    query = searcher.text_vectors(["a red circle"])[0]
    found = Candidates(drawn.reader)
    for videos in itertools.combinations(sorted(drawn.scenes), 2):
        within = Scope.of_videos(videos)
        few = found.slots(query, count, within), found.hits("red circle", count, within)
        with monkeypatch.context() as patch:
            patch.setattr(candidates, "IDS_PER_FILTER", 1)
            many = found.slots(query, count, within), found.hits("red circle", count, within)
        assert {slot.video_id for slot in many[0]} <= set(videos)
        assert [hit.score for hit in many[1]] == pytest.approx([hit.score for hit in few[1]])
        np.testing.assert_allclose(
            [slot.similarity or 0 for slot in many[0]], [slot.similarity or 0 for slot in few[0]], atol=1e-6
        )


def test_an_index_that_leaves_some_out_is_not_believed(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows than asked for are all there are only where everything was looked at."""
    monkeypatch.setattr(candidates, "IDS_PER_FILTER", 1)
    videos = tuple(sorted(drawn.scenes))[:2]
    rows = [{"video_id": video} for video in (*videos, "other") for _ in range(3)]
    asked: list[str | None] = []

    def find(limit: int, where: str | None) -> list[dict[str, str]]:
        asked.append(where)
        return rows[:2] if where is None else rows[:6]

    found = Candidates(drawn.reader)
    assert found._within(find, 4, Scope.of_videos(videos), finds_all=True) == rows[:2]
    assert found._within(find, 4, Scope.of_videos(videos), finds_all=False) == rows[:6]
    assert asked[:2] == [None, None]
    assert asked[2] is not None
