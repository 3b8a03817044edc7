from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given
from support.drawn_archive import Drawn

from malmm.pipeline.relevance import balanced_threshold
from malmm.pipeline.searching import Searcher

cosines = st.lists(st.floats(-1, 1), min_size=1, max_size=40).map(np.array)


@given(cosines, cosines)
def test_both_mistakes_are_as_frequent_as_they_can_be(own: np.ndarray, others: np.ndarray) -> None:
    def difference(threshold: float) -> float:
        return abs((own < threshold).mean() - (others >= threshold).mean())

    threshold = balanced_threshold(own, others)
    assert difference(threshold) <= min(difference(each) for each in np.concatenate([own, others])) + 1e-12


def test_what_lies_apart_is_parted() -> None:
    threshold = balanced_threshold(np.array([0.6, 0.7, 0.9]), np.array([0.1, 0.2, 0.5]))
    assert 0.5 < threshold <= 0.6


def test_a_checkpoint_may_bring_its_own_threshold(drawn: Drawn) -> None:
    searcher = Searcher(drawn.place)
    retrieval = searcher.models().retrieval
    assert retrieval is not None
    assert searcher.relevance_threshold() == retrieval.config["relevance_threshold"]


def test_without_one_the_captions_tell(drawn: Drawn) -> None:
    searcher = Searcher(drawn.place)
    retrieval = searcher.models().retrieval
    assert retrieval is not None
    brought = retrieval.config.pop("relevance_threshold")
    threshold = searcher.relevance_threshold()
    assert -1 < threshold < 1
    assert threshold != brought
