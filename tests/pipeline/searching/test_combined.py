"""Queries of several parts, and words that a moment should not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawn_archive import Drawn

from malmm.model.demo.world import Scene
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.searching.combined import ALPHA, Combination, Part
from malmm.pipeline.searching.query import Like
from malmm.pipeline.searching.searcher import Found, Searcher

COSINES = st.lists(st.floats(-1, 1), min_size=3, max_size=6)


@pytest.fixture(scope="module")
def searcher(drawn: Drawn) -> Searcher:
    return Searcher(drawn.place)


def combination(*wanted: bool, slots: int = 64) -> Combination:
    chance = np.random.default_rng(3)
    made = chance.standard_normal((slots + len(wanted), 2, 8))
    made = (made / np.linalg.norm(made, axis=-1, keepdims=True)).astype(np.float32)
    parts = tuple(Part(f"part {place}", made[place, 0], is_wanted=each) for place, each in enumerate(wanted))
    return Combination(parts, made[len(wanted) :])


@given(COSINES)
def test_one_part_alone_is_its_cosine(cosines: list[float]) -> None:
    given_ = np.array([cosines])
    np.testing.assert_allclose(combination(True).scores(given_), given_[0], atol=1e-5)


@given(COSINES, st.integers(0, 2), st.floats(0.01, 0.5))
def test_what_fits_a_part_more_is_better_and_an_unwanted_one_worse(
    cosines: list[float], row: int, more: float
) -> None:
    both = combination(True, True, False)
    before = np.array([cosines, cosines[::-1], cosines])
    after = before.copy()
    after[row, 0] += more
    change = both.scores(after)[0] - both.scores(before)[0]
    assert change >= 0 if row < 2 else change <= 0
    assert row == 2 or change > 0
    np.testing.assert_allclose(both.scores(after)[1:], both.scores(before)[1:])


def test_an_unwanted_part_that_no_slot_stands_out_by_changes_nothing() -> None:
    two = combination(True, False)
    [mean, _] = two._level(two.parts[1])
    cosines = np.array([[0.1, 0.2, 0.3], [mean - 0.1, mean - 0.2, mean]])
    np.testing.assert_allclose(two.scores(cosines), cosines[0], atol=1e-6)


def test_parts_of_another_scale_count_the_same() -> None:
    """Cosines of pictures are larger than those of words: a part counts by how much a slot stands out in it."""
    wide = combination(True, True)
    narrow = Combination(
        (wide.parts[0], Part("narrow", wide.parts[1].vectors)),
        np.concatenate([wide.sample, wide.sample[::-1]]),
    )
    levels = [wide._level(part) for part in wide.parts]
    at = np.array([[mean + 2 * spread] for mean, spread in levels])
    for each in (wide, narrow):
        [score] = each.scores(at)
        assert score == pytest.approx(levels[0][0] + 2 * levels[0][1], abs=1e-5)


def test_few_slots_are_compared_by_their_cosines() -> None:
    few = combination(True, False, slots=5)
    [score] = few.scores(np.array([[0.8], [0.3]]))
    assert score == pytest.approx(0.8 - ALPHA * 0.3)


def test_words_minus_words(drawn: Drawn, searcher: Searcher) -> None:
    def at(video: str, scene: Scene, found: list[Found]) -> float:
        """The best similarity of a moment where the scene is; minus one if it is not among those found."""
        there = [each for each in found if each.video_id == video]
        there = [each for each in there if each.start_s < scene.end_s and each.end_s > scene.start_s]
        return max((each.similarity or -1.0 for each in there), default=-1.0)

    # All moments: among the best of them, one could come in because others went down.
    plain = searcher.search("a circle", k=200, signals=("vectors",))
    worse = 0
    for name, video, scene in drawn.only_once():
        without = searcher.search("a circle", without=[f"a {name}"], k=200, signals=("vectors",))
        assert at(video, scene, plain) > -1
        # Where the unwanted thing is seen, no moment is better than it was.
        assert at(video, scene, without) <= at(video, scene, plain) + 1e-6
        worse += at(video, scene, without) < at(video, scene, plain) - 1e-6
    assert worse > 0
    name, _, _ = drawn.only_once()[0]
    only = searcher.search(f"a {name}", without=[f"a {name}"], k=1, signals=("vectors",))
    assert only[0].similarity is not None
    assert only[0].similarity < (searcher.search(f"a {name}", k=1, signals=("vectors",))[0].similarity or 0)
    # Texts that have the unwanted words do not bring their moments back.
    shape = name.split()[1]
    assert not any(
        "text" in each.signals and shape in (each.text or "")
        for each in searcher.search("a red circle", without=[shape], k=50)
    )


def test_a_picture_a_moment_and_words_go_together(drawn: Drawn, searcher: Searcher, tmp_path: Path) -> None:
    name, video, scene = drawn.only_once()[0]
    best = searcher.search(f"a {name}", k=1)[0]
    assert best.thumbnail is not None
    path = tmp_path / "still.jpg"
    path.write_bytes(best.thumbnail)
    found = searcher.search(f"a {name}", image=path, k=3)
    assert found[0].video_id == video
    assert found[0].start_s < scene.end_s
    assert found[0].end_s > scene.start_s
    at_s = (scene.start_s + scene.end_s) / 2
    examples = [Like(video, at_s), Like(video, 1.0)]
    others = searcher.search(examples=examples, k=10)
    assert others
    assert not any(
        each.video_id == video and each.start_s <= like.at_s < each.end_s
        for each in others
        for like in examples
    )
    words = searcher.search(f"a {name}", like=Like(video, at_s), k=5)
    assert {signal for each in words for signal in each.signals} == {"vectors", "text"}


def test_too_many_parts_are_refused(drawn: Drawn, searcher: Searcher) -> None:
    with pytest.raises(ConfigError, match="at most 10"):
        searcher.search("a circle", without=["a"] * 11)
