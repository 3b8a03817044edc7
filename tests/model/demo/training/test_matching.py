from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from malmm.model.demo.training.matching import is_true, phrase_of
from malmm.model.demo.world import plan_scenes


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_phrase_is_true_of_the_scene_that_it_is_said_of(seed, other):
    chance = random.Random(seed)
    for scene in plan_scenes(60, (seed, other)):
        for thing in scene.objects:
            text, phrase = phrase_of(thing, chance)
            assert is_true(phrase, scene)
            for said in filter(None, phrase):
                assert said in text


def test_a_phrase_must_be_true_of_one_object_alone():
    scene = next(s for n in range(99) for s in plan_scenes(60, (n, 0)) if len(s.objects) == 2)
    left, right = scene.objects
    assert is_true((left.colour, left.shape, left.motion), scene)
    crossed = (left.colour, right.shape, None)
    assert is_true(crossed, scene) == (left.colour == right.colour or left.shape == right.shape)
