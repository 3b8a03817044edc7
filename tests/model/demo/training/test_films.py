from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmm.model.demo.checkpoint import initial_time_positions
from malmm.model.demo.training.films import Reel, online_memory, plain_memories, stored_memory
from malmm.model.demo.training.pool import ABSENT, Pool
from malmm.model.memory.positions import TimePositions
from malmm.model.training.banked_pass import together

CHANNELS = 8


@pytest.fixture(scope="module")
def reel() -> Reel:
    """Forty scenes of 3 to 9 frames whose tokens are noise around a direction of their own."""
    noise = np.random.default_rng(1)
    lengths = noise.integers(3, 10, 40)
    attributes = np.array(
        [[(n % 6, n % 5, n % 5), ABSENT if n % 3 else ((n + 1) % 6, (n + 2) % 5, 0)] for n in range(40)]
    )
    scene_of = np.repeat(np.arange(40), lengths)
    count = len(scene_of)
    pool = Pool(np.zeros((count, 1, 1, 3), np.uint8), scene_of, attributes, np.zeros((count, 1), np.int64))
    centre = noise.normal(size=(40, 3, CHANNELS))
    tokens = torch.from_numpy(centre[scene_of] + 0.1 * noise.normal(size=(count, 3, CHANNELS))).half()
    return Reel(pool, tokens, random.Random(3))


@given(st.integers(1, 9), st.integers(3, 60))
def test_a_film_is_no_longer_than_asked_and_shows_nothing_twice(reel, scenes, longest):
    film = reel.film(scenes, longest)
    assert 1 <= len(film) <= longest
    assert 1 <= len(film.scenes) <= scenes
    assert film.begins == [int(scene.start_s) for scene in film.scenes]
    assert film.scenes[-1].end_s == len(film)
    names = [thing.name for scene in film.scenes for thing in scene.objects]
    assert len(set(names)) == len(names)
    assert len(film.attributes) == len(film.scenes)


def test_what_is_stored_is_the_mean_of_what_was_seen(reel):
    """Positions put in and taken out leave, up to half precision, the mean of each slot's frames."""
    positions = TimePositions(initial_time_positions(CHANNELS)).requires_grad_(False)
    film = reel.film(4, 30)
    for segments in (1, 2):
        memory = stored_memory(film, positions, 5, segments)
        assert len(memory) <= 5
        assert memory.appended == len(film)
        for slot in range(len(memory)):
            for place in range(3):
                first, size = int(memory.first[slot, place]), int(memory.sizes[slot, place])
                seen = film.tokens[first : first + size, place].mean(0)
                torch.testing.assert_close(memory.tokens[slot, place], seen, atol=5e-3, rtol=0)


def test_memories_of_unlike_length_line_up_at_the_end(reel):
    films = sorted((reel.film(3, length).tokens for length in (4, 20, 9)), key=len, reverse=True)
    held = online_memory(films, 5)
    assert [len(each) for each in held] == [min(6, len(film)) for film in films]
    stacked, present = together(held)
    assert present.sum(1).tolist() == [len(each) for each in held]
    for row, seen, film in zip(stacked, present, films, strict=True):
        assert seen[-1]
        torch.testing.assert_close(row[-1], film[-1])
        assert (row[~seen] == 0).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 3))
def test_films_in_lock_step_are_each_remembered_as_the_means_of_their_own_frames(reel, lengths, segments):
    films = [reel.film(4, length) for length in lengths]
    for film, memory in zip(films, plain_memories(films, 5, segments), strict=True):
        assert memory.appended == len(film)
        assert len(memory) == min(5, len(film))
        assert torch.equal(memory.tokens, memory.tokens.half().float())
        assert memory.sizes.sum(0).tolist() == [len(film)] * 3
        for slot in range(len(memory)):
            for place in range(3):
                first, size = int(memory.first[slot, place]), int(memory.sizes[slot, place])
                seen = film.tokens[first : first + size, place].mean(0)
                torch.testing.assert_close(memory.tokens[slot, place], seen, atol=5e-3, rtol=0)
