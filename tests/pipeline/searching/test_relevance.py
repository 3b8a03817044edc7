from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from safetensors.numpy import save_file
from support.drawn_archive import Drawn

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.searching.relevance import (
    Background,
    Relevance,
    balanced_threshold,
    own_background,
    relevance_of,
)
from malmm.pipeline.searching.searcher import Searcher

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


def test_a_checkpoint_may_bring_its_own_threshold_and_background(drawn: Drawn) -> None:
    searcher = Searcher(drawn.place)
    retrieval = searcher.models().retrieval
    assert retrieval is not None
    relevance = relevance_of(searcher.archive, retrieval, searcher.text_vectors)
    assert relevance.threshold == retrieval.config["relevance_threshold"]
    assert relevance.background is not None
    text = "a red circle"
    wanted = relevance.cosine(searcher.text_vectors([text])[0], searcher.archive.count("memories"))
    assert searcher.relevance_threshold(text) == wanted


def bare(retrieval: Checkpoint, folder: Path) -> Checkpoint:
    """The same retrieval model, without a threshold and a background."""
    config = {key: value for key, value in retrieval.config.items() if key != "relevance_threshold"}
    return replace(retrieval, directory=folder, config=config)


def test_without_either_the_archives_own_slots_tell(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = Searcher(drawn.place)
    retrieval = searcher.models().retrieval
    assert retrieval is not None
    slots = searcher.archive.slots.sampled_vectors(10_000)
    stored = [searcher.archive.slots.segment_vectors(key) for key in searcher.archive.completed_segments()]
    firsts = [float(number) for part in stored if part is not None for number in part[:, 0, 0]]
    assert sorted(slots[:, 0, 0].tolist()) == sorted(firsts)
    assert len(searcher.archive.slots.sampled_vectors(7)) == 7
    monkeypatch.setattr("malmm.pipeline.searching.relevance._FEWEST_OWN_SLOTS", len(slots))
    relevance = relevance_of(searcher.archive, bare(retrieval, tmp_path), searcher.text_vectors)
    assert relevance.background is not None
    [word] = searcher.text_vectors(["a red circle"])
    similar = (slots @ word).max(axis=1)
    assert relevance.cosine(word, 1) == pytest.approx(float(similar.mean()), abs=1e-5)
    wanted = similar.mean() + 1.8241 * similar.std()
    assert relevance.cosine(word, 20) == pytest.approx(float(wanted), abs=5e-3)


def test_in_an_archive_of_few_slots_the_captions_tell(drawn: Drawn, tmp_path: Path) -> None:
    searcher = Searcher(drawn.place)
    retrieval = searcher.models().retrieval
    assert retrieval is not None
    assert searcher.archive.slots.slot_count() < 200
    relevance = relevance_of(searcher.archive, bare(retrieval, tmp_path), searcher.text_vectors)
    assert relevance.background is None
    assert -1 < relevance.threshold < 1
    assert relevance.cosine(searcher.text_vectors(["a dog"])[0], 10) == relevance.threshold


def test_more_slots_ask_for_more() -> None:
    contrasts = [contrast for _, contrast in own_background(np.ones((2, 1, 4))).contrasts]
    assert contrasts == sorted(contrasts)
    assert (contrasts[0], len(set(contrasts))) == (0.0, len(contrasts))


def test_more_has_to_be_reached_among_more_slots(drawn: Drawn) -> None:
    searcher = Searcher(drawn.place)
    one = searcher.archive.videos()["video_id"][0].as_py()
    assert searcher.archive.slots.slot_count([one]) < searcher.archive.slots.slot_count()
    of_one, of_all = (searcher.relevance_threshold("a red circle", ids) for ids in ([one], None))
    assert of_one <= of_all


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@given(st.integers(0, 2**31), st.integers(1, 10**6))
def test_it_has_to_stand_out_by_the_contrast_of_so_many_slots(seed: int, slots: int) -> None:
    chance = np.random.default_rng(seed)
    query = unit(chance.standard_normal(8))
    background = Background(unit(chance.standard_normal((30, 4, 8))), ((10, 1.0), (1000, 3.0)))
    nearest = [max(float(vector @ query) for vector in slot) for slot in background.vectors]
    contrast = (background.cosine(query, slots) - np.mean(nearest)) / np.std(nearest)
    expected = min(3.0, max(1.0, 1.0 + 2.0 * np.log(slots / 10) / np.log(100)))
    assert contrast == pytest.approx(expected)
    assert Relevance(2.0, background).cosine(query, slots) == 2.0


def test_words_near_to_everything_are_about_nothing() -> None:
    # A query that all of the background is near to has to be nearer still.
    chance = np.random.default_rng(0)
    near = unit(np.ones(8) + 0.5 * chance.standard_normal((30, 4, 8)))
    background = Background(near, ((1, 3.0),))
    vague, distinct = unit(np.ones(8)), unit(np.array([1.0] + [-1.0] * 7))
    assert background.cosine(vague, 1) > background.cosine(distinct, 1)


def test_a_background_of_another_models_vectors_is_named(drawn: Drawn, tmp_path: Path) -> None:
    searcher = Searcher(drawn.place)
    retrieval = searcher.models().retrieval
    assert retrieval is not None
    copy = tmp_path / "retrieval"
    shutil.copytree(retrieval.directory, copy)
    tensors = {"vectors": np.ones((2, 3, 4), np.float32)}
    save_file(tensors, copy / "background.safetensors", metadata={"contrasts": "[[1, 2]]"})
    with pytest.raises(
        ConfigError, match=r"background\.safetensors has vectors of 4 numbers, and the model of 64"
    ):
        relevance_of(searcher.archive, replace(retrieval, directory=copy), searcher.text_vectors)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"vectors": np.zeros((2, 4), np.float32)}, {"contrasts": "[[1, 2]]"}),
        ({"vectors": np.zeros((2, 3, 4), np.float32)}, {"contrasts": "[]"}),
        ({"vectors": np.zeros((2, 3, 4), np.float32)}, {"contrasts": "[[20, 2], [0, 1]]"}),
        ({"vectors": np.zeros((2, 0, 4), np.float32)}, {"contrasts": "[[1, 2]]"}),
        ({"vectors": np.zeros((2, 3, 4), np.float32)}, {"contrasts": "high"}),
        ({"vectors": np.zeros((2, 3, 4), np.float32)}, {}),
        ({"others": np.zeros((2, 3, 4), np.float32)}, {"contrasts": "[[1, 2]]"}),
        (None, {}),
    ],
)
def test_a_file_that_is_no_background_is_named(
    tmp_path: Path, tensors: dict[str, np.ndarray] | None, metadata: dict[str, str]
) -> None:
    path = tmp_path / "background.safetensors"
    if tensors is None:
        path.write_bytes(b"no tensors")
    else:
        save_file(tensors, path, metadata=metadata)
    with pytest.raises(ConfigError, match=r"background\.safetensors is not a background"):
        Background.load(path)
